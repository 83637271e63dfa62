"""Shapes are checked in tests, and only there: every annotation of `models` and `bench.rendering` is enforced.

The hook rewrites modules as they are imported, so it comes before any test. tests/test_shapes.py holds the canary.
"""

import pytest
from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # a whole number serves where a float is wanted
install_import_hook(["models", "bench.rendering"], "conftest.check")


@pytest.fixture(autouse=True)
def no_progress_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what tests compare does not depend on how fast the machine is; tests/test_console.py wants the lines."""
    monkeypatch.setattr("bench.common.console.FIRST_LINE_S", 600.0)
