"""Long work without a terminal: a line at least every ten seconds, from the first; a bar in a terminal."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from support.balls import Balls
from support.commands import SPEC
from support.gobjaverse_files import SIZE, write_root
from support.meshes import deb, library, quad
from support.training import spec

import bench.common.console
import bench.execution.progress
from bench import setup
from bench.common.console import progress, track
from bench.common.errors import UserError
from bench.data.checks.check import check
from bench.data.meshes import furniture
from bench.data.meshes.render import render
from bench.data.sources import procedural
from bench.data.storage.open_store import open_store
from bench.data.storage.pack import pack
from bench.evaluation.evaluate import evaluate
from bench.execution.launcher import Task
from bench.execution.progress import SweepProgress
from bench.runs.folder import RunFolder, Status
from bench.runs.states import State
from bench.runs.writer import PlainWriter
from models import weights


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines follow each other without a pause, so that short work prints some."""
    monkeypatch.setattr(bench.common.console, "FIRST_LINE_S", 0.001)
    monkeypatch.setattr(bench.common.console, "LINE_EVERY_S", 0.05)


def test_a_line_comes_every_ten_seconds_everywhere() -> None:
    assert bench.common.console.LINE_EVERY_S == bench.execution.progress.LINE_EVERY_S == 10


def test_lines_say_how_much_is_done_and_left(quick: None) -> None:
    output = io.StringIO()
    for _ in track(range(4), "packing [x]", 4, Console(file=output, width=20)):
        time.sleep(0.2)
    lines = output.getvalue().splitlines()
    assert lines[0] == "packing [x]: 0/4, 0:00:00 elapsed"
    assert any(line.startswith("packing [x]: 2/4, 0:00:00 elapsed, 0:00:00 remaining") for line in lines)
    assert lines[-1] == "packing [x]: 4/4, 0:00:01 elapsed"


def test_one_slow_item_is_not_silent(quick: None) -> None:
    output = io.StringIO()
    with progress("fetching", console=Console(file=output)):
        time.sleep(0.3)
        before_the_end = output.getvalue().splitlines()
    assert len(before_the_end) >= 3 and set(before_the_end) == {"fetching: 0:00:00 elapsed"}


def test_short_work_nothing_to_do_and_hidden_work_print_nothing() -> None:
    output = io.StringIO()
    console = Console(file=output)
    assert list(track([1, 2], "short", 2, console)) == [1, 2]
    assert list(track([], "empty", 0, console)) == []
    assert list(track([1], "hidden", 1, console, visible=False)) == [1]
    assert output.getvalue() == ""


def test_work_that_fails_ends_its_lines(quick: None) -> None:
    output = io.StringIO()
    with pytest.raises(ValueError, match="broken"), progress("checking", 9, Console(file=output)):
        time.sleep(0.1)
        raise ValueError("broken")
    written = output.getvalue()
    time.sleep(0.2)
    assert output.getvalue() == written


def test_a_terminal_gets_a_bar() -> None:
    output = io.StringIO()
    for _ in track(range(3), "packing [x]", 3, Console(file=output, force_terminal=True, width=100)):
        time.sleep(0.15)
    assert "packing [x]" in output.getvalue() and "━" in output.getvalue()


def generate(folder: Path) -> None:
    procedural.Spec(training_scenes=1, validation_scenes=0, evaluation_scenes=0).open(8)


def index_and_check(folder: Path) -> None:
    check(write_root(folder / "raw", ["0/1"]), Console(), workers=1)


def index_and_pack(folder: Path) -> None:
    pack(write_root(folder / "raw", ["0/1"]), folder / "out", SIZE, Console(), workers=1)


def render_meshes(folder: Path) -> None:
    render([quad(folder / "meshes")], folder / "out", 16, Console())


def render_furniture(folder: Path) -> None:
    for name in furniture.LIBRARIES:
        library(folder, name, {"vase": ("Ann", 1.0)} if name == "Scopia" else {})
    package = deb(folder / "f.deb", {path.name: path.read_bytes() for path in folder.glob("*.sh3f")})
    furniture.furniture(folder / "out", 16, package, Console())


def evaluate_run(folder: Path) -> None:
    model = spec().model.build(0)
    weights.save_spec(model, folder / weights.SPEC_FILE)
    weights.save_weights(model, folder / weights.WEIGHTS_FILE)
    evaluate(spec(), PlainWriter(folder), device=torch.device("cpu"), source=Balls(spec().model.image_size))


LONG_WORK: dict[Callable[[Path], None], tuple[str, ...]] = {
    generate: ("generating procedural scenes at 8 px",),
    index_and_check: ("checking",),
    index_and_pack: ("packing",),
    render_meshes: ("rendering meshes",),
    render_furniture: ("unpacking", "comparing the geometry of models", "rendering meshes"),
    evaluate_run: ("evaluating",),
}


@pytest.mark.parametrize("work", LONG_WORK, ids=lambda work: work.__name__)
def test_long_work_prints_lines_without_a_terminal(
    work: Callable[[Path], None],
    quick: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("EAD_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(furniture, "RESERVED", {})
    work(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    for title in LONG_WORK[work]:
        assert any(line.startswith(title) and "elapsed" in line for line in lines), (title, lines)


def test_indexing_prints_lines_without_a_terminal(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EAD_BENCH_CACHE", str(tmp_path / "cache"))
    root, slow = write_root(tmp_path / "raw", ["0/1", "0/2"]), os.scandir

    def scandir(path: Path) -> Any:
        time.sleep(0.05)  # a network's file system
        return slow(path)

    monkeypatch.setattr(os, "scandir", scandir)
    open_store(root)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"indexing scenes of {root}: 2 done, 0:00:00 elapsed"


def test_a_sweep_prints_lines_of_runs_at_work_and_of_runs_that_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.execution.progress, "LINE_EVERY_S", 0.05)
    output = io.StringIO()
    task = Task(RunFolder(tmp_path / "abc"), "mine", {"train": {"steps": 9}})
    with SweepProgress(Console(file=output), 2) as progress:
        for _ in range(30):
            progress.update([task], {"theirs": "pid 7 on host"})
            time.sleep(0.01)
    lines = output.getvalue().splitlines()
    assert lines.count("theirs: locked by pid 7 on host; waiting") > 2
    assert sum(line.startswith("mine:") for line in lines) > 2


def test_a_sweep_in_a_terminal_has_bars_and_names_its_preview_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.execution.progress, "PREVIEW_EVERY_S", 0.0)
    output, folder = io.StringIO(), RunFolder(tmp_path / "runs" / "abc")
    writer = PlainWriter(folder.path)
    folder.set_status(Status(State.RUNNING, "train"))
    task = Task(folder, "mine [x]", {"train": {"steps": 9}})
    console = Console(file=output, force_terminal=True, width=200)
    with SweepProgress(console, 1, tmp_path / "sweep") as progress:
        progress.update([task], {})
        assert not (tmp_path / "sweep").exists()
        for step in (3, 4):
            writer.append("metrics.jsonl", {"step": step, "loss": 0.5})
            (folder.path / "preview.png").write_bytes(b"image %d" % step)
            os.utime(folder.path / "preview.png", (step, step))
            progress.update([task], {})
            time.sleep(0.2)
    printed = output.getvalue()
    assert "mine [x]" in printed and "step 4/9  loss 0.5000" in printed and "━" in printed
    assert (tmp_path / "sweep" / "preview.png").read_bytes() == b"image 4"
    assert printed.count(f"preview: {tmp_path / 'sweep' / 'preview.png'}") == 1


def test_set_up_prints_lines_while_it_fetches(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_network(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        time.sleep(0.2)
        return subprocess.CompletedProcess([], 1, "", "ERROR: no network")

    monkeypatch.setenv("EAD_BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["setup"])
    monkeypatch.setattr(subprocess, "run", no_network)
    with pytest.raises(UserError, match="no network"):
        setup.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("LPIPS backbones: fetching") and len(lines) > 2


@pytest.mark.long
def test_json_alone_is_on_the_standard_output(tmp_path: Path) -> None:
    """Scenes are generated, and their lines go to the stream of the messages."""
    path = tmp_path / "sweep.yaml"
    path.write_text(SPEC)
    program = (
        "import bench.common.console, bench.run; bench.common.console.FIRST_LINE_S = 0.001\n"
        "raise SystemExit(bench.run.main())"
    )
    arguments = [
        str(path),
        "train.steps=6",
        "--only",
        "patch 8",
        "--json",
        "--no-report",
        "--results",
        str(tmp_path / "r"),
    ]
    environment = os.environ | {"EAD_BENCH_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert isinstance(json.loads(done.stdout), list)
    assert "generating procedural scenes" in done.stderr
