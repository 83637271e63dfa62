"""The search itself, on runs whose metrics are a formula: the real sampler, journal, rows, front and specs."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import bench.run
from bench import protocols
from bench.common.console import command_console
from bench.common.errors import UserError
from bench.common.json_files import read_json, read_lines, write_json
from bench.config import load
from bench.config.objectives import available_objectives
from bench.config.search_section import load_search
from bench.execution.launcher import LaunchCallbacks, prepare_run_folder
from bench.execution.session import Session
from bench.runs.folder import RunFolder, Status
from bench.runs.lease import Lease
from bench.search.__main__ import main, parse
from bench.search.controller import JOURNAL, SearchController
from bench.search.pareto_front import ParetoRow, nondominated_rows

SPEC = """# Which model is best for its size?
base: freesplatter
runs:
  - {name: Small, model.encoder.patch: 2}
  - {name: Large}
set:
  data: {name: procedural, training_scenes: 16, validation_scenes: 16, evaluation_scenes: 16}
  model.encoder.width: 48
  model.aggregator.heads: 2
search:
  trials: 8
  objectives: [psnr, parameters]
  fields:
    model.encoder.patch: [4, 8]
    train.learning_rate: {log: [1.0e-4, 1.0e-3]}
scales:
  tiny:
    losses.lpips: null
    search:
      fields:
        model.aggregator.blocks: [1, 2, 3, 4, 5]
        train.learning_rate: {log: [1.0e-3, 1.0e-2]}
  small: {search: {fields: {model.aggregator.blocks: [2, 4, 6, 8, 10]}}}
  paper: {search: {fields: {model.aggregator.blocks: [4, 8, 16, 24, 32]}}}
"""
GRID = """base: freesplatter
runs: [{name: Own, model.encoder.width: 48}]
set:
  data: {name: procedural, training_scenes: 16, validation_scenes: 16, evaluation_scenes: 16}
  model.aggregator.heads: 2
  losses.lpips: null
search:
  trials: 99
  sampler: grid
  objectives: [psnr, step_time_ms]
  fields: {model.encoder.patch: [2, 4, 5], train.batch: [4, 8], train.micro_batch: [2, 4]}
"""


def formula(spec: Mapping[str, Any]) -> tuple[float, int, float]:
    """PSNR, parameters and step time of an imaginary experiment; a learning rate above 0.008 gives NaN."""
    blocks, patch = spec["model"]["aggregator"]["blocks"], spec["model"]["encoder"]["patch"]
    decades = math.log10(spec["train"]["learning_rate"] / 3e-3)
    return 12 + 3 * math.log(blocks) - 0.4 * patch - 4 * decades**2, 10_000 * blocks + patch, 100 * blocks / patch


class FormulaSession(Session):
    """A session whose runs are not trained: it writes the files that a run leaves.

    It kills the process (`kill_at`) or is stopped (`stop_at`) at its n-th run.
    """

    trained = 0
    kill_at = stop_at = -1
    finite = False  # also at high learning rates

    def launch(self, callbacks: LaunchCallbacks) -> tuple[Mapping[str, Status], bool]:
        for task in self.pending():
            FormulaSession.trained += 1
            prepare_run_folder(task)
            if FormulaSession.trained == FormulaSession.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if FormulaSession.trained == FormulaSession.stop_at:
                return {}, True
            finish(task.folder, task.spec)
        return {}, False

    def report(self) -> Path:
        """tests/search/test_search_real.py has tables, figures and report."""
        return self.folder


def finish(run: RunFolder, spec: Mapping[str, Any]) -> None:
    psnr, parameters, step_ms = formula(spec)
    protocol = protocols.get("per_image_white")
    if spec["train"]["learning_rate"] > 0.008 and not FormulaSession.finite:
        return run.set_status(Status("nan", "train", "step 7: loss"))
    evaluation = {
        "protocol": protocol.to_dict(), "means": {"psnr": psnr}, "parameters": {"total": parameters}, "baselines": {},
        "data": {"name": "formula"}, "scenes": {}, "views": {"a": {"inputs": [0], "targets": [1]}}, "image_size": 32,
    }  # fmt: skip
    profile = {"step_time_ms": step_ms, "definitions": {"step_time_ms": "a formula", "host_peak_memory_gib": ""},
               "device": "paper", "threads": 1, "batch": 1}  # fmt: skip
    for name, content in {"train": {}, f"evals/{protocol.key}": evaluation, "profiles/cpu-1": profile}.items():
        write_json(run.path / f"{name}.json", content)
    save_file({"weight": torch.zeros(1)}, run.path / "weights.safetensors")
    run.set_status(Status("done"))
    return None


@pytest.fixture(autouse=True)
def initial_counts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(FormulaSession, "trained", 0)
    for name in ("kill_at", "stop_at", "finite"):
        monkeypatch.setattr(FormulaSession, name, getattr(FormulaSession, name))
    yield


def search(arguments: list[str]) -> int:
    """The command, with runs by formula."""
    options = parse(arguments)
    console = command_console(to_stderr=options.json)
    loaded = load_search(options.spec, options.overrides, options.scale)
    controller = SearchController(loaded, options, console, FormulaSession)
    with Lease(controller.folder):
        return controller.run()


def command(folder: Path, *options: str, text: str = SPEC) -> list[str]:
    path = folder / "question.yaml"
    if not path.is_file():
        folder.mkdir(exist_ok=True)
        path.write_text(text)
    return [str(path), "--results", str(folder / "results"), "--no-report", *options]


def rows(folder: Path) -> list[dict[str, Any]]:
    (path,) = (folder / "results").glob("question_tiny*/trials.jsonl")
    return read_lines(path)


def trials(folder: Path) -> list[dict[str, Any]]:
    return [row for row in rows(folder) if row["kind"] == "trial"]


@pytest.fixture(scope="module")
def finished_search(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whole search of 12 trials."""
    folder = tmp_path_factory.mktemp("search")
    Path(command(folder)[0]).write_text(SPEC.replace("trials: 8", "trials: 12"))
    assert search(command(folder)) in (0, 1)
    return folder


def test_as_many_trials_as_wanted_each_a_run(finished_search: Path) -> None:
    assert len(trials(finished_search)) == 12 and len({row["id"] for row in trials(finished_search)}) == 12
    for row in trials(finished_search):
        run = RunFolder(finished_search / "results" / "runs" / row["id"])
        assert run.status().state == row["state"]
        if row["values"]:
            psnr, parameters, _ = formula(run.spec())
            assert row["values"] == {"psnr": psnr, "parameters": parameters}
    labels = [line["label"] for line in read_lines(finished_search / "results" / "question_tiny" / "runs.jsonl")]
    assert labels == [row["label"] for row in rows(finished_search) if row["kind"] in ("reference", "trial")]


def test_the_front_is_what_brute_force_finds_in_the_rows(finished_search: Path) -> None:
    folder = finished_search / "results" / "question_tiny"
    runs = [row for row in rows(finished_search) if row["values"]]
    points = {row["id"]: (row["values"]["psnr"], -row["values"]["parameters"]) for row in runs}
    best = {
        run_id
        for run_id, (psnr, size) in points.items()
        if not any(p >= psnr and s >= size and (p > psnr or s > size) for p, s in points.values())
    }
    front = read_json(folder / "search.json")["front"]
    assert set(front) == best and 2 <= len(best) < len(runs)
    table = (folder / "tables" / "front.md").read_text()
    assert all(run_id in table for run_id in best) and "do not carry over" in table
    assert (folder / "tables" / "front.tex").is_file() and (folder / "figures" / "front.svg").stat().st_size > 1000


def test_the_front_of_three_objectives() -> None:
    objectives = [
        available_objectives(protocols.get("per_image_white"))[name] for name in ("psnr", "parameters", "step_time_ms")
    ]
    draw = random.Random(0)
    points = [(draw.randrange(30), -draw.randrange(30), -draw.randrange(30)) for _ in range(30)]
    rows = [
        ParetoRow(i, str(i), "trial", str(i), "done", values={"psnr": a, "parameters": -b, "step_time_ms": -c})
        for i, (a, b, c) in enumerate(points)
    ]
    best = [
        point for point in points
        if not any(o != point and all(mine <= theirs for mine, theirs in zip(point, o, strict=True)) for o in points)
    ]  # fmt: skip
    assert sorted(points[row.number or 0] for row in nondominated_rows(rows, objectives)) == sorted(best)
    assert 3 < len(best) < 30 and nondominated_rows([replace(row, kind="repeat") for row in rows], objectives) == []


def test_each_front_member_is_a_spec_that_runs_at_any_scale(finished_search: Path) -> None:
    folder = finished_search / "results" / "question_tiny"
    by_id = {row["id"]: row for row in rows(finished_search) if row["kind"] != "repeat"}
    specs = sorted((folder / "front").glob("*.yaml"))
    ids = {load(path).runs[0].id for path in specs}
    assert ids == set(read_json(folder / "search.json")["front"])
    for path in specs:
        (tiny,), (paper,) = load(path).runs, load(path, scale="paper").runs
        if by_id[tiny.id]["kind"] == "trial":
            place = [1, 2, 3, 4, 5].index(tiny.spec.model.aggregator.blocks)
            assert paper.spec.model.aggregator.blocks == [4, 8, 16, 24, 32][place]
            assert paper.spec.train.learning_rate == pytest.approx(tiny.spec.train.learning_rate / 10, rel=0.01)
    assert bench.run.main([str(specs[0]), "--scale", "paper", "--dry-run", "--results", str(finished_search)]) == 0


def test_a_second_time_nothing_is_trained(finished_search: Path) -> None:
    before = rows(finished_search)
    assert search(command(finished_search)) in (0, 1)
    assert FormulaSession.trained == 0 and rows(finished_search) == before


def test_failed_runs_are_reported_to_the_sampler_and_may_be_retried(tmp_path: Path) -> None:
    overrides = ["train.learning_rate=0.009"]
    text = SPEC.replace("trials: 8", "trials: 3").replace("{log: [1.0e-3, 1.0e-2]}", "{log: [1.0e-3, 9.0e-3]}")
    assert search(command(tmp_path, *overrides, text=text)) == 1
    assert [row["state"] for row in trials(tmp_path)] == ["nan"] * 3 and "step 7" in trials(tmp_path)[0]["message"]
    assert study_states(tmp_path) == ["FAIL"] * len([r for r in rows(tmp_path) if r["number"] is not None])
    FormulaSession.finite = True
    assert search(command(tmp_path, *overrides)) == 1 and FormulaSession.trained == 5  # two of the spec's own, too
    assert search(command(tmp_path, *overrides, "--retry", "nan")) == 0
    assert [row["state"] for row in trials(tmp_path)] == ["done"] * 3
    states = study_states(tmp_path)
    assert states.count("COMPLETE") == len({row["id"] for row in rows(tmp_path) if row["number"] is not None})
    assert search(command(tmp_path, *overrides)) == 0 and study_states(tmp_path) == states


def study_states(folder: Path) -> list[str]:
    import optuna

    (journal,) = (folder / "results").glob(f"*/{JOURNAL}")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    (name,) = optuna.get_all_study_names(storage)
    return [trial.state.name for trial in optuna.load_study(study_name=name, storage=storage).trials]


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_a_resumed_search_proposes_the_same(sampler: str, tmp_path: Path) -> None:
    text = SPEC.replace("trials: 8", f"trials: 8\n  sampler: {sampler}")
    search(command(tmp_path / "whole", text=text))
    FormulaSession.trained, FormulaSession.stop_at = 0, 5
    assert search(command(tmp_path / "parts", text=text)) == 130
    assert len(trials(tmp_path / "parts")) == 3  # after the spec's own two
    FormulaSession.stop_at = -1
    assert search(command(tmp_path / "parts")) in (0, 1)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole") and len(trials(tmp_path / "whole")) == 8


def test_killed_in_the_middle_and_run_again(tmp_path: Path) -> None:
    """kill -9 while the fourth trial runs; then with a lock and half a line as a worse moment would leave them."""
    arguments = command(tmp_path)
    killed = subprocess.run(
        [sys.executable, "-m", "tests.search.test_search", "6", *arguments], capture_output=True, text=True, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    (journal,) = (tmp_path / "results").glob(f"*/{JOURNAL}")
    assert [state for state in study_states(tmp_path) if state != "FAIL"][-1] == "RUNNING"
    before = study_states(tmp_path)
    with journal.open("ab") as file:
        file.write(b'{"op_code": 4, "worker')
    journal.with_name(f"{journal.name}.lock").symlink_to(journal)
    assert search(arguments) in (0, 1)
    after = study_states(tmp_path)
    assert len(trials(tmp_path)) == 8 and "RUNNING" not in after
    assert after[: len(before) - 1] == before[:-1]
    whole = tmp_path / "whole"
    assert search(command(whole)) in (0, 1) and rows(whole) == rows(tmp_path)


def test_a_grid_ends_and_lists_repeats_and_invalid_proposals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search(command(tmp_path, text=GRID)) == 0
    kinds = [row["kind"] for row in rows(tmp_path)]
    assert [kinds.count(kind) for kind in ("reference", "trial", "repeat", "invalid")] == [1, 4, 4, 4]
    output = capsys.readouterr().out
    assert "ends after 4 of 99 trials: all 12 combinations were proposed" in output and "question.yaml:11" in output
    assert "5 does not divide" in next(row["message"] for row in rows(tmp_path) if row["kind"] == "invalid")
    assert "a formula; one noisy measurement per run, on paper with 1 threads" in output.replace("\n", " ")
    assert FormulaSession.trained == 5


def test_several_at_once(tmp_path: Path) -> None:
    assert search(command(tmp_path, "--jobs", "3")) in (0, 1)
    assert len(trials(tmp_path)) == 8 and FormulaSession.trained == 10


def test_what_another_sweep_trained_is_not_trained_again(finished_search: Path, tmp_path: Path) -> None:
    (tmp_path / "results").symlink_to(finished_search / "results")
    text = SPEC.replace("trials: 8", "trials: 12\n  sampler: tpe")
    other = tmp_path / "other.yaml"
    other.write_text(text)
    assert search([str(other), "--results", str(tmp_path / "results"), "--no-report"]) in (0, 1)
    assert FormulaSession.trained == 0


def test_a_changed_question_is_a_new_search(tmp_path: Path) -> None:
    search(command(tmp_path))
    path = tmp_path / "question.yaml"
    path.write_text(SPEC.replace("model.encoder.width: 48", "model.encoder.width: 96"))
    before = {row["id"] for row in rows(tmp_path)}
    assert search(command(tmp_path)) in (0, 1)
    assert len(trials(tmp_path)) == 8 and not before & {row["id"] for row in rows(tmp_path)}


def test_dry_run_shows_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(tmp_path, "--dry-run")) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "0.001 … 0.01, logarithmic" in output and "10 combinations of the choices" in output
    assert "0 of 8 trials are done" in output and "Small" in output and not (tmp_path / "results").exists()
    assert main([*command(tmp_path, "--dry-run", "--json", text=GRID)]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["trials"] == 8 and [run["label"] for run in content["runs"]] == ["Small", "Large"]


def test_dry_run_counts_what_breaks_a_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(tmp_path, "--dry-run", text=GRID)) == 0
    assert "12 combinations: 4 distinct runs" in (output := capsys.readouterr().out)
    assert "4 break a rule and would not be run" in output and "5 does not divide" in " ".join(output.split())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["train.step=3"], "did you mean 'steps'"),
        (["stray"], "'stray' is neither"),
        (["--retry", "done"], "--retry done"),
        (["--jobs", "0"], "at least 1"),
        (["--device", "tpu"], "it may be auto, cpu"),
    ],
)
def test_bad_input_is_one_clear_error(options: list[str], text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=text):
        main(command(tmp_path, *options))
    assert not list((tmp_path / "results").glob("*/trials.jsonl"))


def test_memory_of_a_gpu_is_no_objective_on_a_cpu(tmp_path: Path) -> None:
    text = SPEC.replace("[psnr, parameters]", "[psnr, reserved_peak_memory_gib]")
    with pytest.raises(UserError, match="empty on a CPU: use allocated_peak_memory_gib"):
        main(command(tmp_path, "--device", "cpu", text=text))


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    arguments = command(tmp_path)
    with Lease(tmp_path / "results" / "question_tiny"), pytest.raises(UserError, match="is locked by"):
        main(arguments)


if __name__ == "__main__":
    FormulaSession.kill_at = int(sys.argv[1])
    search(sys.argv[2:])
