"""Shapes are checked in tests, and only there: every annotation of the packages in SHAPED is enforced.

The hook rewrites modules as they are imported, so it comes before any test; the canary: tests/models/test_shapes.py.
"""

import pytest
from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # a whole number serves where a float is wanted
SHAPED = ("models", "bench.rendering", "bench.data.batch", "bench.losses", "bench.evaluation")
install_import_hook(SHAPED, "conftest.check")


@pytest.fixture(autouse=True)
def no_progress_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what tests compare does not depend on how fast the machine is; tests/test_console.py wants the lines."""
    monkeypatch.setattr("bench.common.console.FIRST_LINE_S", 600.0)
