"""Run folders: what readers see while writers are killed, and who may read what."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.errors import BadInput
from bench.record import (
    SCHEMA_VERSION,
    PlainWriter,
    RunFolder,
    Status,
    read_json,
    read_lines,
    remove_leftovers,
    write_json,
    write_sweep,
)

KILLED = """
import os, pathlib, signal, sys
from bench.record import PlainWriter
def write(path):
    path.mkdir()
    (path / "new").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
PlainWriter(pathlib.Path(sys.argv[1])).commit("thing", write)
"""


def test_newer_schema_is_refused_and_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    write_json(path, {"a": 1})
    assert read_json(path) == {"schema_version": SCHEMA_VERSION, "a": 1}
    path.write_text(json.dumps({"schema_version": SCHEMA_VERSION + 1}))
    with pytest.raises(BadInput, match=r"some\.json has schema version .* use a newer EAD-Bench"):
        read_json(path)
    path.write_text('{"a": ')
    with pytest.raises(BadInput, match=r"some\.json is damaged"):
        read_json(path)


def test_status_is_planned_until_recorded(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert folder.status() == Status()
    ended = Status("nan", "train", "step 7: loss/mse", "the\nlast lines")
    folder.set_status(ended)
    assert folder.status() == ended


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


def test_sweep_folder(tmp_path: Path) -> None:
    write_sweep(tmp_path / "s", {"name": "s"}, [{"id": "a"}, {"id": "b"}], {"commit": None})
    assert [line["id"] for line in read_lines(tmp_path / "s" / "runs.jsonl")] == ["a", "b"]
    assert read_json(tmp_path / "s" / "sweep.json")["name"] == "s"


def test_reading_and_help_do_not_import_torch() -> None:
    code = (
        "import sys, bench.record, bench.lease, bench.launch, bench.work, bench.progress, bench.run\n"
        "try: bench.run.main(['--help'])\n"
        "except SystemExit: sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
