"""Seeds of one setting are one row: by their specs, whatever their labels say."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from bench import config
from bench.analysis import tables
from bench.analysis.sweep_results import read_sweep
from bench.common.json_files import read_json, read_lines
from bench.execution.options import RunOptions
from bench.execution.session import Session
from bench.runs.folder import write_sweep

SPEC = """base: freesplatter
set: {data: {name: procedural, training_scenes: 16, validation_scenes: 16, evaluation_scenes: 16}, losses.lpips: null}
"""
START = """runs:
  - {name: First, train.steps: 40}
  - {name: Second, init.encoder: {run: First}}
seeds: [0, 1]
"""
GROUPS = {  # what is swept → each group with the number of its runs
    "seeds: [0, 1, 2]": {"all seeds": 3},
    "grid: {model.encoder.patch: [4, 8]}\nseeds: [0, 1]": {"patch 4": 2, "patch 8": 2},
    "grid: {data.seed: [0, 1]}": {"data seed 0": 1, "data seed 1": 1},
    "grid: {data.seed: [0, 1]}\nseeds: [0, 1]": {"data seed 0": 2, "data seed 1": 2},
    "runs: [{name: A seed 1}, {name: A seed 2, model.encoder.patch: 8}]": {"A seed 1": 1, "A seed 2": 1},
    START: {"First": 2, "Second": 2},
}


def record(folder: Path, swept: str) -> Path:
    """A sweep's folder as bench.run writes it before anything is trained."""
    path = folder / "question.yaml"
    path.write_text(SPEC + swept)
    sweep = config.load(path)
    options = RunOptions(path, results=folder / "results", device="cpu")
    Session(sweep, sweep.runs, options, "question", Console(quiet=True)).record()
    return folder / "results" / "question"


@pytest.mark.parametrize("swept", GROUPS)
def test_runs_are_grouped_by_all_but_the_training_seed(tmp_path: Path, swept: str) -> None:
    folder = record(tmp_path, swept)
    groups = read_sweep(folder, folder.parent).groups()
    assert {name: len(entries) for name, entries in groups.items()} == GROUPS[swept]
    table = pd.read_csv(next(path for path in tables.write(folder, folder.parent) if path.suffix == ".csv"))
    assert list(table.label) == list(GROUPS[swept])


def test_a_label_of_an_older_version_does_not_mix_data_seeds(tmp_path: Path) -> None:
    """Which named data.seed as if it were the training seed."""
    folder = record(tmp_path, "grid: {data.seed: [0, 1]}")
    lines = [line | {"label": f"seed {i}"} for i, line in enumerate(read_lines(folder / "runs.jsonl"))]
    write_sweep(folder, read_json(folder / "sweep.json"), lines, {})
    assert list(read_sweep(folder, folder.parent).groups()) == ["seed 0", "seed 1"]


def test_sweeps_that_recorded_no_specs_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    labels = ["Ours, seed 0", "Ours, seed 1", "Other, seed 0"]
    lines = [{"id": str(i), "label": label, "settings": {"seed": int(label[-1])}} for i, label in enumerate(labels)]
    write_sweep(folder, {"name": "old", "scale": "tiny"}, lines, {})
    groups = read_sweep(folder, tmp_path).groups()
    assert {name: len(entries) for name, entries in groups.items()} == {"Ours": 2, "Other": 1}
