"""Every base trains for two steps at a tiny size, is evaluated, and stands in the table."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
from support.base_models import BASES
from support.sweeps import profile

import bench.run
from bench import config
from bench.common.json_files import write_json
from bench.execution import worker
from bench.execution.launcher import prepare_run_folder
from bench.execution.session import task_of
from bench.runs.folder import RunFolder

NAMES = sorted(path.stem for path in BASES.glob("*.yaml"))
SPEC = f"""# Does every base train?
runs: [{", ".join(f"{{name: {name}, base: {name}}}" for name in NAMES)}]
set:
  train: {{steps: 2, batch: 2, warmup_steps: 1, geometry_first: 0}}
  data: {{name: procedural, training_scenes: 4, validation_scenes: 1, evaluation_scenes: 2}}
  evaluation.scenes: 2
  losses.lpips: null
"""
METRIC = {"pointmap": "point_error", "pixels": None}  # of other outputs psnr
Train = Callable[[str], RunFolder]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("specs") / "bases.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture(scope="module")
def train(spec: Path) -> Train:
    """Trains a base once, in this process."""
    runs = {run.label: run for run in config.load(spec).runs}

    @cache
    def once(name: str) -> RunFolder:
        task = task_of(runs[name], spec.parent / "results")
        prepare_run_folder(task)
        write_json(task.folder.path / "profiles" / "cpu-1.json", profile(1.0))  # nothing is timed under shape checks
        assert worker.main([str(task.folder.path), "--threads", "1"]) == 0, task.folder.status().message
        return task.folder

    return once


@pytest.mark.parametrize("name", NAMES)
def test_a_base_trains_and_is_evaluated(name: str, train: Train) -> None:
    folder = train(name)
    assert [record["step"] for record in folder.metrics()] == [1, 2]
    (result,) = folder.evaluations().values()
    metric = METRIC.get(folder.spec()["model"]["output"]["name"], "psnr")
    assert metric is None or result["means"][metric] > 0


def test_every_base_has_its_row(spec: Path, train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    for name in NAMES:
        train(name)
    assert bench.run.main([str(spec), "--results", str(spec.parent / "results"), "--no-report"]) == 0
    table = pd.read_csv(spec.parent / "results" / "bases_tiny" / "tables" / "table.csv").set_index("label")
    assert (table.loc[NAMES, "status"] == "done").all() and (table.loc[NAMES, "parameters_total"] > 0).all()
    assert "0 of 12 runs pending" in capsys.readouterr().out
