"""Every base, and models that nobody published, train for two steps, are evaluated, and stand in the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.base_models import BASES
from support.in_process import Train, trained_once

import bench.run

ODD = {  # combinations that nobody published, from a spec alone
    "DINO, cross-attention, linear, Gaussians": "base: dust3r, model: {encoder: dino, head: linear, "
    "output: gaussians}, losses: {confidence_points: null, mse: 1.0, points: 10.0}",
    "convolution, latents, set": "base: freesplatter, model: {aggregator: latents, output: set_gaussians}, "
    "losses: {points: null}",
    "CNN, alternating, convolutions": "base: freesplatter, model: {encoder: cnn, head: conv_up, "
    "aggregator: {name: alternating, taps: plain}}",
}
NAMES = [*sorted(path.stem for path in BASES.glob("*.yaml")), *ODD]
RUNS = [ODD.get(name, f"base: {name}") for name in NAMES]
SPEC = f"""# Does everything train?
runs: [{", ".join(f"{{name: '{name}', {run}}}" for name, run in zip(NAMES, RUNS, strict=True))}]
set:
  train: {{steps: 2, batch: 2, warmup_steps: 1, geometry_first: 0}}
  data: {{name: procedural, training_scenes: 4, validation_scenes: 1, evaluation_scenes: 2}}
  evaluation.scenes: 2
  losses.lpips: null
"""
METRIC = {"pointmap": "point_error", "pixels": None}  # of other outputs psnr


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("specs") / "bases.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture(scope="module")
def train(spec: Path) -> Train:
    return trained_once(spec, spec.parent / "results")


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_and_is_evaluated(name: str, train: Train) -> None:
    folder = train(name)
    assert [record["step"] for record in folder.metrics()] == [1, 2]
    (result,) = folder.evaluations().values()
    metric = METRIC.get(folder.spec()["model"]["output"]["name"], "psnr")
    assert metric is None or result["means"][metric] > 0


@pytest.mark.parametrize("name", ["lrm", "convolution, latents, set"])
def test_depth_is_rendered_where_no_surface_point_belongs_to_a_pixel(name: str, train: Train) -> None:
    samples = np.load(train(name).path / "samples" / "evaluation.npz")
    assert samples["depth"][samples["mask"]].std() > 0


def test_each_has_its_row(spec: Path, train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    for name in NAMES:
        train(name)
    assert bench.run.main([str(spec), "--results", str(spec.parent / "results"), "--no-report"]) == 0
    table = pd.read_csv(spec.parent / "results" / "bases_tiny" / "tables" / "table.csv").set_index("label")
    assert (table.loc[NAMES, "status"] == "done").all() and (table.loc[NAMES, "parameters_total"] > 0).all()
    assert f"0 of {len(NAMES)} runs pending" in capsys.readouterr().out
