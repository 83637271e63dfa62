"""Everything that runs, measures, records and reports. The models themselves live in the sibling package `models`."""

from importlib.util import find_spec
from pathlib import Path


def _check_sibling() -> None:
    """`models` is a common name: refuse to run against somebody else's."""
    module = find_spec("models")
    here = Path(__file__).resolve().parent.parent
    origin = Path(module.origin).resolve().parent if module and module.origin else None
    if origin != here / "models":
        raise ImportError(
            f"EAD-Bench needs its own package `models` ({here / 'models'}), but Python finds {origin}. "
            "Rename that one, or run from another folder than the one that holds it."
        )


_check_sibling()
