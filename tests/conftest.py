"""Shapes are checked in tests, and only there: every annotation of the packages in SHAPED is enforced.
And the finished sweep that tests share.

The hook rewrites modules as they are imported, so it comes before any test; the canary: tests/models/test_shapes.py.
"""

import shutil
from pathlib import Path

import pytest
from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # a whole number serves where a float is wanted
SHAPED = ("models", "bench.rendering", "bench.data.batch", "bench.outputs", "bench.losses", "bench.evaluation")
install_import_hook(SHAPED, "conftest.check")


@pytest.fixture(autouse=True)
def no_progress_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that output does not depend on the speed of the machine; tests/common/test_console.py needs them."""
    monkeypatch.setattr("bench.common.console.FIRST_LINE_S", 600.0)


@pytest.fixture(scope="session")
def finished_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep (support.sweeps.RESULTS) with its tables, figures and report; only to be read."""
    from support.sweeps import write_finished_sweep

    import bench.report

    folder = write_finished_sweep(tmp_path_factory.mktemp("finished") / "results")
    bench.report.write(folder)
    return folder


@pytest.fixture
def sweep_copy(finished_sweep: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    shutil.copytree(finished_sweep.parent, tmp_path / "results")
    return tmp_path / "results" / finished_sweep.name
