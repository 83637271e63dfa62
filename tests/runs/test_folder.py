"""Run folders: what readers see while writers are killed, and who may read what."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.common.errors import UserError
from bench.common.files import remove_leftovers
from bench.common.json_files import (
    SCHEMA_VERSION,
    read_json,
    read_lines,
    write_json,
)
from bench.runs.folder import RunFolder, Status, write_sweep
from bench.runs.states import RETRYABLE, State
from bench.runs.writer import PlainWriter

KILLED = """
import os, pathlib, signal, sys
from bench.runs.writer import PlainWriter
def write(path):
    path.mkdir()
    (path / "new").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
PlainWriter(pathlib.Path(sys.argv[1])).commit("thing", write)
"""

# Killed at the rename numbered argv[2] of replacing a directory, where names cannot be exchanged (argv[3] == "two").
KILLED_AT_A_RENAME = """
import os, pathlib, signal, sys
folder, left = pathlib.Path(sys.argv[1]), int(sys.argv[2])
def audit(event, arguments):
    global left
    if event == "ctypes.dlsym" and arguments[1] == "renameat2" and sys.argv[3] == "two":
        raise AttributeError("renameat2")
    if event == "os.rename" and folder / "best" in map(pathlib.Path, arguments[:2]):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(audit)
from bench.runs.writer import PlainWriter
PlainWriter(folder).commit("best", lambda path: (path / "new").mkdir(parents=True))
"""


def killed_at_a_rename(folder: Path, number: int, how: str) -> int:
    (folder / "best" / "old").mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", KILLED_AT_A_RENAME, str(folder), str(number), how]
    return subprocess.run(command, check=False).returncode


def content(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_newer_schema_is_refused_and_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    write_json(path, {"a": 1})
    assert read_json(path) == {"schema_version": SCHEMA_VERSION, "a": 1}
    path.write_text(json.dumps({"schema_version": SCHEMA_VERSION + 1}))
    with pytest.raises(UserError, match=r"some\.json has schema version .* use a newer EAD-Bench"):
        read_json(path)
    path.write_text('{"a": ')
    with pytest.raises(UserError, match=r"some\.json is damaged"):
        read_json(path)


def test_status_is_planned_until_recorded(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert folder.status() == Status()
    ended = Status("nan", "train", "step 7: loss/mse", "the\nlast lines")
    folder.set_status(ended)
    assert folder.status() == ended


def test_an_unknown_state_is_named(tmp_path: Path) -> None:
    RunFolder(tmp_path).set_status(Status(State.DONE))
    path = tmp_path / "status.json"
    path.write_text(path.read_text().replace("done", "finished"))
    with pytest.raises(UserError, match=r"status\.json: unknown state 'finished'; it may be planned, .*, lost"):
        RunFolder(tmp_path).status()


def test_every_state_is_waiting_active_done_or_failed() -> None:
    for state in State:
        assert [state is State.PLANNED, state.is_active, state is State.DONE, state.failed].count(True) == 1, state
        assert state.is_terminal == (state is State.DONE or state.failed), state
        assert state.failed or not (state.needs_retry or state.was_stopped), state
    assert RETRYABLE == (State.FAILED, State.OOM, State.NAN, State.TIMEOUT)
    assert [state for state in State if state.is_final] == [State.DONE, State.FAILED, State.OOM, State.NAN]


def test_metrics_survive_torn_lines_and_steps_that_ran_twice(tmp_path: Path) -> None:
    writer, path = PlainWriter(tmp_path), tmp_path / "metrics.jsonl"
    writer.append("metrics.jsonl", {"step": 1, "loss": 3.0})
    path.write_text(path.read_text() + '{"step": 2, "lo')  # a crash in the middle of a line
    writer.append("metrics.jsonl", {"step": 1, "loss": 1.0})
    writer.append("metrics.jsonl", {"step": 2, "loss": 2.0})
    assert [record["loss"] for record in RunFolder(tmp_path).metrics()] == [1.0, 2.0]
    path.write_text(path.read_text() + '{"step": 3, "loss": 4.0}')  # whole, but for its end
    writer.append("metrics.jsonl", {"step": 4, "loss": 5.0})
    assert [record["step"] for record in RunFolder(tmp_path).metrics()] == [1, 2, 3, 4]


def test_killed_commit_leaves_the_old_content_and_something_to_sweep_up(tmp_path: Path) -> None:
    old = tmp_path / "thing" / "old"
    old.parent.mkdir()
    old.write_text("whole")
    ended = subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False)
    assert ended.returncode == -9 and [path.name for path in old.parent.iterdir()] == ["old"]
    assert list(tmp_path.glob(".tmp-*"))
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thing"] and old.read_text() == "whole"


def test_a_commit_replaces_a_directory_whole(tmp_path: Path) -> None:
    writer = PlainWriter(tmp_path)
    for name in ("first", "second"):
        writer.commit("thing", lambda path, name=name: (path / name).mkdir(parents=True))  # type: ignore[misc]
    assert [path.name for path in (tmp_path / "thing").iterdir()] == ["second"]


@pytest.mark.parametrize("number", [1, 2])
def test_a_directory_survives_a_kill_between_two_renames(tmp_path: Path, number: int) -> None:
    """Where the file system cannot exchange two names: the old content is back after the clean-up."""
    assert killed_at_a_rename(tmp_path, number, "two") == -9
    assert (tmp_path / "best").exists() == (number == 1)
    remove_leftovers(tmp_path)
    assert content(tmp_path) == ["best", "best/old"]
    assert killed_at_a_rename(tmp_path, 3, "two") == 0
    assert content(tmp_path) == ["best", "best/new"]


def test_an_interrupt_between_two_renames_restores_the_directory(tmp_path: Path) -> None:
    code = KILLED_AT_A_RENAME.replace("os.kill(os.getpid(), signal.SIGKILL)", "raise KeyboardInterrupt")
    (tmp_path / "best" / "old").mkdir(parents=True)
    ended = subprocess.run([sys.executable, "-c", code, tmp_path, "2", "two"], check=False, stderr=subprocess.DEVNULL)
    assert ended.returncode != 0 and content(tmp_path) == ["best", "best/old"]


def test_a_directory_is_exchanged_in_one_step_where_the_system_can(tmp_path: Path) -> None:
    """There is no rename after which the name would be free. Linux on ext4, XFS, Btrfs or tmpfs."""
    libc, ends = ctypes.CDLL(None), [tmp_path / "a", tmp_path / "b"]
    for end in ends:
        end.mkdir()
    if not hasattr(libc, "renameat2") or libc.renameat2(-100, bytes(ends[0]), -100, bytes(ends[1]), 2):
        pytest.skip("this file system cannot exchange two names")
    assert killed_at_a_rename(tmp_path / "run", 1, "one") == 0
    assert content(tmp_path / "run") == ["best", "best/new"]


def test_sweep_folder(tmp_path: Path) -> None:
    write_sweep(tmp_path / "s", {"name": "s"}, [{"id": "a"}, {"id": "b"}], {"commit": None})
    assert [line["id"] for line in read_lines(tmp_path / "s" / "runs.jsonl")] == ["a", "b"]
    assert read_json(tmp_path / "s" / "sweep.json")["name"] == "s"


def test_reading_and_help_do_not_import_torch() -> None:
    code = (
        "import sys, bench.runs.folder, bench.runs.lease\n"
        "import bench.execution.launcher, bench.work, bench.execution.progress, bench.run\n"
        "try: bench.run.main(['--help'])\n"
        "except SystemExit: sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
