"""Shapes are checked in tests, and only there: every annotation of the packages in SHAPED is enforced.
And the finished sweep that tests share.

The hook rewrites modules as they are imported, so it comes before any test; the canary: tests/models/test_shapes.py.
Each process computes with one thread, as does what it starts: `make test` runs one process per core instead.
"""

import multiprocessing
import os
import shutil
from pathlib import Path

import pytest
import rich
from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch and numpy are imported
check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # a whole number serves where a float is wanted
SHAPED = ("models", "bench.rendering", "bench.data.batch", "bench.outputs", "bench.losses", "bench.evaluation")
install_import_hook(SHAPED, "conftest.check")
multiprocessing.set_forkserver_preload(  # imported once, instead of by every process that a test or a pool starts
    ["bench.data.sources.gobjaverse", "bench.data.sources.procedural", "bench.data.storage.pack",
     "bench.data.meshes.render", "models.weights", "hypothesis", "pytest"]
)  # fmt: skip


@pytest.fixture(autouse=True)
def console_of_a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shared console prints to the standard output, whatever a command with --json did in an earlier test; and no
    progress lines, whatever the speed of the machine (tests/common/test_console.py asks for them)."""
    rich.reconfigure(stderr=False)
    monkeypatch.setattr("bench.common.console.FIRST_LINE_S", 600.0)


@pytest.fixture(scope="session")
def finished_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep (support.sweeps.RESULTS) with its tables, figures and report; only to be read."""
    from support.shared_folders import make_once
    from support.sweeps import write_finished_sweep

    import bench.report

    def make(folder: Path) -> None:
        bench.report.write(write_finished_sweep(folder))

    (record,) = make_once("finished_sweep", tmp_path_factory, make).glob("*/sweep.json")
    return record.parent


@pytest.fixture
def sweep_copy(finished_sweep: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    shutil.copytree(finished_sweep.parent, tmp_path / "results")
    return tmp_path / "results" / finished_sweep.name
