"""What a run needs on disk, and how one ends where there is no room: as a result, with nothing corrupt."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors import SafetensorError
from support.training import run, spec, stop_after

from bench import run as command
from bench.common import disk
from bench.common.errors import run_command
from bench.execution.endings import status_of_exception
from bench.runs.folder import RunFolder
from bench.training import checkpoint
from bench.training.train import Stopped
from models import weights
from models.ead import count_parameters

FULL = OSError(errno.ENOSPC, "No space left on device")
ON_A_FULL_DISK = """
import errno, pathlib, sys
from rich.console import Console
from bench.execution.launcher import Launcher, Task
from bench.execution.progress import SweepProgress
from bench.runs.folder import RunFolder
def refuse(event, arguments):
    if event == "os.mkdir":
        raise OSError(errno.ENOSPC, "No space left on device")
sys.addaudithook(refuse)
tasks = [Task(RunFolder(pathlib.Path(sys.argv[1]) / "runs" / name), name, {}) for name in ("a", "b")]
Launcher(tasks, SweepProgress(Console(width=200), 2)).run()
"""


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


@pytest.mark.parametrize("keep", ["last", "best"])
def test_the_price_is_what_is_written(tmp_path: Path, keep: str) -> None:
    of = spec(keep=keep, validations=2)
    price = disk.disk_usage_of_run(count_parameters(of.model.build(0))["total"], keep, of.train.steps)
    with pytest.raises(Stopped):
        run(tmp_path, of, stop=stop_after(12))
    assert 2 * size(tmp_path) == pytest.approx(price.training, rel=0.1)  # each could stand twice; headers are small
    run(tmp_path, of)
    assert size(tmp_path) == pytest.approx(price.kept, rel=0.1)


def test_the_paper_s_checkpoints() -> None:
    """461,205,248 parameters with two moments each in fp32."""
    assert disk.disk_usage_of_run(461_205_248, "last", 1) == disk.Disk(training=2 * 5_534_462_976, kept=1_844_820_992)
    assert disk.disk_usage_of_run(461_205_248, "best", 0) == disk.Disk(training=1_844_820_992, kept=1_844_820_992)
    assert disk.format_bytes(5_534_462_976) == "5.5 GB" and disk.format_bytes(1_500_000) == "1.5 MB"


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (FULL, True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (SafetensorError('IoError(Os { code: 28, kind: StorageFull, message: "No space left on device" })'), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (ValueError("shape"), False),
    ],
)
def test_a_full_disk_is_known_as_one(error: Exception, is_full: bool) -> None:
    assert disk.is_disk_full(error) is is_full
    assert ("disk is full" in status_of_exception(error, "train").message) is is_full


def test_training_resumes_from_before_the_disk_was_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second checkpoint is half written when room ends; the first stands, and the end is that of a whole run."""
    of = spec(checkpoint_every=5)
    whole = run(tmp_path / "whole", of)
    save, saves = checkpoint.save_file, iter(range(100))

    def fill(tensors: object, path: Path) -> None:
        if next(saves) == 3:  # the optimizer's of the second checkpoint
            path.write_bytes(b"half")
            raise FULL
        save(tensors, path)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(checkpoint, "save_file", fill)
        run(tmp_path / "cut", of)
    folder = RunFolder(tmp_path / "cut")
    assert [path.name for path in folder.checkpoints()] == ["step_00000005"]
    assert not list((tmp_path / "cut").rglob(".tmp-*")) and len(folder.metrics()) == 10
    again = run(tmp_path / "cut", of)
    assert [(path / weights.WEIGHTS_FILE).read_bytes() for path in (whole.path, again.path)].count(
        (whole.path / weights.WEIGHTS_FILE).read_bytes()
    ) == 2


def test_a_sweep_ends_where_nothing_can_be_written(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", ON_A_FULL_DISK, tmp_path], capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if ": failed: the disk is full" in line]
    assert [line[0] for line in lines] == ["a", "b"] and all("free space and re-run" in line for line in lines), done
    assert not list(tmp_path.rglob("*"))


def test_too_little_room_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**7))
    arguments = ["ablations/base/freesplatter.yaml", "--results", str(tmp_path / "results")]
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: command.main(arguments))
    assert ended.value.code == 2
    assert "10.0 MB free, but 1 runs need" in capsys.readouterr().err
    assert not list((tmp_path / "results").rglob("*.safetensors"))
    command.main([*arguments, "--dry-run"])
    assert "10.0 MB free in" in capsys.readouterr().out.replace("\n", " ")
