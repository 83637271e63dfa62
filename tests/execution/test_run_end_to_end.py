"""The command itself at minuscule size: killed in the middle, run by two at once, run again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from support.commands import SPEC
from support.shared_folders import make_once

import bench.run
from bench.common.errors import UserError
from bench.common.json_files import read_json, read_lines
from bench.runs.folder import RunFolder
from bench.runs.lease import active_holder

RUNS = ("patch 4", "patch 8")


def start(spec: Path, results: Path, *options: str, report: bool = False) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bench.run", str(spec), "--results", str(results), "--threads", "1", *options]
    command += [] if report else ["--no-report"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    output = process.communicate(timeout=200)[0]
    return process.returncode, output


def run(spec: Path, results: Path, *options: str) -> tuple[int, str]:
    return end(start(spec, results, *options))


def folders(results: Path) -> list[RunFolder]:
    (lines,) = (read_lines(path) for path in results.glob("sweep_tiny*/runs.jsonl"))
    return [RunFolder(results / "runs" / line["id"]) for line in lines]


def table(results: Path) -> pd.DataFrame:
    """Without what depends on the machine."""
    frame = pd.read_csv(results / "sweep_tiny" / "tables" / "table.csv")
    return frame[[name for name in frame if not name.startswith("measured/")]]


def wait_for_step(results: Path, step: int, process: subprocess.Popen[str]) -> RunFolder:
    """The first run that has come so far."""
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and process.poll() is None:
        for path in results.glob("runs/*/metrics.jsonl"):
            if len(read_lines(path)) >= step:
                return RunFolder(path.parent)
        time.sleep(0.02)
    pytest.fail(f"no run came to step {step}: {end(process)}")


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("specs") / "sweep.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture(scope="module")
def undisturbed(spec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the whole sweep; only to be read."""

    def make(results: Path) -> None:
        code, output = end(start(spec, results, report=True))
        assert code == 0, output
        page = results / "sweep_tiny" / "report.html"
        assert page.is_file() and output.splitlines()[-1] == f"report: {page}"

    return make_once("undisturbed", tmp_path_factory, make)


@pytest.fixture
def finished(undisturbed: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(undisturbed, tmp_path / "results"))


def test_killed_in_the_middle_then_two_at_once_gives_the_undisturbed_table(
    spec: Path, undisturbed: Path, tmp_path: Path
) -> None:
    victim = start(spec, tmp_path)
    folder = wait_for_step(tmp_path, 15, victim)
    worker = active_holder(folder.path)
    assert worker is not None and folder.status().state == "running"
    for process in (worker.pid, victim.pid):
        os.kill(process, signal.SIGKILL)
    end(victim)
    assert folder.training() is None and folder.checkpoints()

    both = [start(spec, tmp_path) for _ in range(2)]
    ends = [end(process) for process in both]
    assert [code for code, _ in ends] == [0, 0], ends
    steps = [Counter(r["step"] for r in read_lines(f.path / "metrics.jsonl")) for f in folders(tmp_path)]
    killed = next(counts for counts, f in zip(steps, folders(tmp_path), strict=True) if f.id == folder.id)
    assert max(killed.values()) == 2 and sum(killed.values()) < 75  # again from the checkpoint, and once
    assert all(sum(counts.values()) == 60 for counts in steps if counts is not killed)
    pd.testing.assert_frame_equal(table(tmp_path), table(undisturbed))
    for one, other in zip(folders(tmp_path), folders(undisturbed), strict=True):
        name = "weights.safetensors"
        assert (one.path / name).read_bytes() == (other.path / name).read_bytes()


def test_files_of_former_settings_are_removed(finished: Path, tmp_path: Path) -> None:
    """The same runs under other names; what a user put there stays."""
    runs = "runs: [{name: fine, model.encoder.patch: 4}, {name: coarse, model.encoder.patch: 8}]"
    (tmp_path / "sweep.yaml").write_text(SPEC.replace("grid: {model.encoder.patch: [4, 8]}", runs))
    drawn = finished / "sweep_tiny" / "figures"
    shutil.copy(drawn / "model_patch_4.svg", drawn / "model_of_mine.svg")
    code, output = run(tmp_path / "sweep.yaml", finished)
    assert code == 0 and "0 of 2 runs pending" in output, output
    diagrams = {path.name for path in drawn.glob("model_*")}
    assert diagrams == {"model_fine.svg", "model_coarse.svg", "model_of_mine.svg"}


def test_a_third_time_trains_nothing(spec: Path, finished: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.glob("runs/*/**/*") if p.is_file()}
    code, output = run(spec, finished)
    assert code == 0 and "0 of 2 runs pending" in output and "| patch 4 " in output
    assert {p: p.stat().st_mtime_ns for p in finished.glob("runs/*/**/*") if p.is_file()} == before


def test_a_report_that_fails_is_a_line_and_no_failure_of_the_sweep(
    spec: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> list[Path]:
        raise RuntimeError("first line\nthe kernel [died]")

    monkeypatch.setattr("bench.report.write", fail)
    assert bench.run.main([str(spec), "--results", str(finished)]) == 0
    assert "no report: the kernel [died]" in capsys.readouterr().out


def test_a_deleted_spec_of_a_finished_run_is_restored(
    spec: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folders(finished)[0].path / "spec.json"
    content = read_json(path)
    path.unlink()
    assert bench.run.main([str(spec), "--results", str(finished), "--no-report"]) == 0
    assert read_json(path) == content and f"{path} was missing and has been restored" in capsys.readouterr().out


def test_the_results_folder_is_named_from_any_directory(
    spec: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished.parent)
    assert bench.run.main([str(spec), "--no-report"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(f"0 of 2 runs pending; results: {finished}")
    assert lines[-1] == f"report: {finished / 'sweep_tiny'}"


def test_what_is_recorded(undisturbed: Path) -> None:
    sweep = undisturbed / "sweep_tiny"
    lines = read_lines(sweep / "runs.jsonl")
    assert [(line["label"], line["status"]) for line in lines] == [(label, "done") for label in RUNS]
    assert read_json(sweep / "sweep.json")["question"] == "Does the patch matter?"
    recorded = read_json(sweep / "environment.json")
    assert recorded["spec_file"] == "outside the repository" and len(recorded["local_changes"]) >= 1
    assert "sweep.yaml lies outside the repository" in (sweep / "tables" / "table.md").read_text()
    for folder in folders(undisturbed):
        assert read_json(folder.path / "spec.json")["id"] == folder.id
        recorded = folder.provenance()
        assert set(recorded) == {"train", "evals/per_image_white@1", "profiles/cpu-1"}
        for record in recorded.values():
            assert record["threads"] == 1 and record["precision"]["deterministic_algorithms"]
        assert "process" in (folder.path / "log.txt").read_text()
        assert not (folder.path / "environment.json").exists()
        assert not (folder.path / "checkpoints").exists() and not list(folder.path.rglob(".tmp-*"))


def test_one_interrupt_stops_with_a_checkpoint(spec: Path, tmp_path: Path) -> None:
    process = start(spec, tmp_path, "--only", "patch 8", "train.steps=2000")
    folder = wait_for_step(tmp_path, 3, process)
    process.send_signal(signal.SIGINT)
    code, output = end(process)
    assert code == 130 and "re-run the same command to resume" in output, output
    status, steps = folder.status(), len(folder.metrics())
    assert status.state == "cancelled" and "SIGTERM" in status.message
    assert [path.name for path in folder.checkpoints()] == [f"step_{steps:08d}"]


def test_a_worker_does_not_outlive_its_controller(spec: Path, tmp_path: Path) -> None:
    process = start(spec, tmp_path, "--only", "patch 8", "train.steps=2000")
    folder = wait_for_step(tmp_path, 3, process)
    process.kill()
    end(process)
    deadline = time.monotonic() + 20
    while active_holder(folder.path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert folder.status().state == "cancelled" and "controller" in folder.status().message and folder.checkpoints()


def test_a_failure_is_reported_in_a_line_and_the_sweep_continues(
    spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A learning rate under which nothing stays finite, for one of two runs."""
    bad = spec.with_name("bad.yaml")
    bad.write_text(SPEC.replace("grid: {model.encoder.patch: [4, 8]}", "zip: {train.learning_rate: [1.0e+30, 1.0e-3]}"))
    code, output = run(bad, tmp_path, "train.steps=12")
    (line,) = [line for line in output.splitlines() if ": nan in train: step " in line]
    assert code == 1 and "log.txt" in line and "done (1 of 2)" in output, output
    assert bench.run.main([str(bad), "--results", str(tmp_path), "train.steps=12", "--json", "--no-report"]) == 1
    printed = capsys.readouterr()
    assert [run["status"] for run in json.loads(printed.out)] == ["nan", "done"]
    assert "0 of 2 runs pending" in printed.err and "nan previously; pass --retry nan" in printed.err


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["train.step=3"], "did you mean 'steps'"),
        (["--only", "nothing*"], "matches none of: patch 4; patch 8"),
        (["--retry", "done"], "--retry done: it may be failed"),
        (["--jobs", "0"], "at least 1"),
        (["stray"], "'stray' is neither"),
        (["--device", "tpu"], "it may be auto, cpu, cuda"),
    ],
)
def test_bad_input_is_one_clear_error(spec: Path, tmp_path: Path, options: list[str], text: str) -> None:
    with pytest.raises(UserError) as raised:
        bench.run.main([str(spec), "--results", str(tmp_path / "results"), *options])
    assert text in str(raised.value) and not (tmp_path / "results").exists()


def test_a_missing_weight_file_is_an_error_before_anything_starts(tmp_path: Path) -> None:
    code, output = run(Path("ablations/table3.yaml"), tmp_path, "--scale", "paper", "--only", "Ours1")
    assert (
        code == 2 and "init.encoder: no file" in output and "data.root=FOLDER" in output and "Traceback" not in output
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.long
def test_overfit_judges_each_run(spec: Path, tmp_path: Path) -> None:
    code, output = run(spec, tmp_path, "--overfit", "1", "--only", "PATCH 8", "train.steps=10", "train.warmup_steps=2")
    assert code == 1 and "patch 8: FAILED: target views" in output, output
    (folder,) = tmp_path.glob("sweep_tiny_overfit=1_*")
    states = [(line["label"], line["status"]) for line in read_lines(folder / "runs.jsonl")]
    assert states == [("patch 4", "planned"), ("patch 8", "done")]


def test_dry_run_counts_as_the_paper_prints_and_needs_nothing(tmp_path: Path) -> None:
    process = start(Path("ablations/table3.yaml"), tmp_path, "--scale", "paper", "--dry-run")
    code, output = end(process)
    assert code == 0 and all(text in output for text in ("307M", "461M", "475M", "4,096", "init.encoder")), output
    process = start(
        Path("ablations/table3.yaml"), tmp_path, "--scale", "paper", "--dry-run", "--json", "--only", "ours2"
    )
    (row,) = json.loads(end(process)[1])
    assert row["parameters"]["total"] == 475_718_231 and row["tokens_per_scene"] == 1024 and row["label"] == "Ours2"
    assert {"id", "label", "scale", "spec", "parameters", "tokens_per_scene"} <= row.keys() and row["scale"] == "paper"
    assert not any(tmp_path.iterdir())
