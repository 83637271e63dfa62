"""Planted illnesses are warned about within 50 steps, and a healthy training is left in peace."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.balls import Balls
from support.training import CPU, SIZE, batch_of, run, spec

from bench.common.json_files import write_json
from bench.config.schema import FromRun, InitSpec, RunSpec
from bench.data.scene import SceneData
from bench.runs.folder import RunFolder
from bench.runs.writer import PlainWriter
from bench.training import diagnostics
from bench.training.train import train
from models import weights
from models.ead import EAD
from models.tensors import Cameras, Gaussians


def gaussians(seed: int = 0, **changes: Any) -> Gaussians:
    """At the true points of the batch, solid and small."""
    batch = batch_of(spec(), seed)
    shape = batch.input_points.shape[:-1]
    values = {
        "means": batch.input_points, "rotations": torch.ones(*shape, 4), "scales": torch.full((*shape, 3), 0.01),
        "opacities": torch.full(shape, 0.9), "harmonics": torch.zeros(*shape, 1, 3),
    }  # fmt: skip
    return Gaussians(**{**values, **changes})


def statistics_of(g: Gaussians, seed: int = 0) -> dict[str, float]:
    result = diagnostics.output_statistics(g, batch_of(spec(), seed), spec().model.output)
    return {key.removeprefix("health/"): float(value) / 4 for key, value in result.items()}


def test_health_of_the_truth_is_good() -> None:
    assert statistics_of(gaussians()) == {
        "transparent": 0,
        "scale_cap": 0,
        "behind": 0,
        "out_of_frame": 0,
        "non_finite": 0,
    }


def test_shares_are_exact() -> None:
    batch = batch_of(spec(), 0)
    mask = batch.input_mask
    opacities = torch.full(mask.shape, 0.9)
    expected = 0.0
    for i in range(4):
        where = mask[i].nonzero()[: 10 * (i + 1)]
        opacities[i][tuple(where.T)] = 0.01
        expected += len(where) / int(mask[i].sum()) / 4
    assert statistics_of(gaussians(opacities=opacities))["transparent"] == pytest.approx(expected)
    opacities[~mask] = 0.01  # the background may fade
    assert statistics_of(gaussians(opacities=opacities))["transparent"] == pytest.approx(expected)
    scales = gaussians().scales.clone()
    scales[..., 0] = 0.08
    assert statistics_of(gaussians(scales=scales))["scale_cap"] == pytest.approx(1 / 3)


def test_where_means_lie() -> None:
    batch = batch_of(spec(), 0)
    center, axis = batch.target_cameras.centers[:, 0], batch.target_cameras.camera_to_world[:, 0, :3, 2]

    def at(points: torch.Tensor) -> dict[str, float]:
        one = points[:, None, None, None].expand_as(batch.input_points)
        camera = batch.target_cameras
        first = Cameras(camera.world_to_camera[:, :1], camera.intrinsics[:, :1], camera.height, camera.width)
        aimed = replace(batch, target_cameras=first)
        result = diagnostics.output_statistics(gaussians(means=one), aimed, spec().model.output)
        return {key.removeprefix("health/"): float(value) / 4 for key, value in result.items()}

    assert at(center - axis)["behind"] == 1 and at(center - axis)["out_of_frame"] == 0
    assert at(center + axis)["behind"] == 0 and at(center + axis)["out_of_frame"] == 0
    aside = batch.target_cameras.camera_to_world[:, 0, :3, 0]
    assert at(center + axis + 5 * aside)["out_of_frame"] == 1


def test_values_that_are_not_finite_are_seen_without_a_loss() -> None:
    harmonics = gaussians().harmonics.clone()
    harmonics[0, 0, 0, 0, 0, 0] = torch.inf
    assert statistics_of(gaussians(harmonics=harmonics))["non_finite"] > 0
    assert diagnostics.first_nonfinite_value({"loss/mse": 1.0, "health/non_finite": 1e-6}) == "the model's output"


def test_the_first_to_go_bad_is_named() -> None:
    bad = {"loss": float("nan"), "gradient_norm/encoder": float("nan"), "loss/mse": 1.0, "loss/points": float("inf")}
    assert diagnostics.first_nonfinite_value(bad) == "loss/points"
    late = {"loss": 1.0, "gradient_norm/encoder": float("nan"), "gradient_norm/head": 1.0}
    assert (
        diagnostics.first_nonfinite_value(late | {"gradient_norm/aggregator": float("inf")})
        == "gradient_norm/aggregator"
    )
    assert diagnostics.first_nonfinite_value({"loss": 1.0, "health/non_finite": 0.0}) is None


def starting_from(folder: Path, of: RunSpec, plant: Callable[[EAD], object]) -> RunSpec:
    """The spec, initialized from a finished run whose weights have been tampered with."""
    model = of.model.build(of.seed)
    with torch.no_grad():
        plant(model)
    writer = PlainWriter(folder / "parent")
    writer.commit(weights.WEIGHTS_FILE, lambda path: weights.save_weights(model, path))
    writer.commit("train.json", lambda path: write_json(path, {"steps": 1}))
    return replace(of, init=InitSpec(model=FromRun("parent", "parent")))


def channel(model: EAD, name: str, value: float) -> None:
    """Hold a group of the head's channels at a value: (p q c) is the linear head's layout."""
    channels = model.spec.output.channels()
    start = sum(list(channels.values())[: list(channels).index(name)])
    bias = model.head.linear.bias.view(-1, sum(channels.values()))
    weight = model.head.linear.weight.view(*bias.shape, -1)
    for tensor in (bias, weight):
        tensor[:, start : start + channels[name]] = 0
    bias[:, start : start + channels[name]] = value


class Turned(Balls):
    """Target cameras look away from the object: turned by 180° about their y axis."""

    def read(self, scene: str, views: Sequence[int]) -> SceneData:
        data = super().read(scene, views)
        poses = data.camera_to_world.copy()
        poses[spec().views.inputs :] = poses[spec().views.inputs :] @ np.diag([-1.0, 1.0, -1.0, 1.0])
        return replace(data, camera_to_world=poses)


@pytest.mark.parametrize(
    ("plant", "warning"),
    [
        (lambda model: channel(model, "opacities", -9.0), "100% of the Gaussians have an opacity below 0.05"),
        (lambda model: channel(model, "scales", 9.0), "100% of the scales are at their cap"),
        (lambda model: model.head.linear.weight.zero_(), "no gradient reaches the encoder"),
    ],
    ids=["opacity", "scale", "gradient"],
)
def test_illness_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture, plant: Any, warning: str) -> None:
    frozen = spec(steps=50, learning_rate=1e-20, final_learning_rate=1e-20, geometry_first=0.0, weight_decay=0.0)
    with caplog.at_level(logging.WARNING):
        summary = run(tmp_path / "child", starting_from(tmp_path, frozen, plant)).training()
    assert summary is not None
    matching = [text for text in summary["warnings"] if warning in text]
    assert len(matching) == 1 and caplog.text.count(warning) == 1
    assert int(matching[0].split()[1].rstrip(":")) <= 50


def test_cameras_that_look_away_are_warned_about(tmp_path: Path) -> None:
    train(spec(steps=40), PlainWriter(tmp_path), device=CPU, source=Turned(SIZE))
    summary = RunFolder(tmp_path).training()
    assert summary is not None and any("behind the target cameras" in text for text in summary["warnings"])


def test_healthy_training_is_not_warned_about(tmp_path: Path) -> None:
    summary = run(tmp_path, spec(steps=60)).training()
    assert summary is not None and summary["warnings"] == []
    records = RunFolder(tmp_path).metrics()
    assert [r["step"] for r in records if "health/behind" in r] == [1, 11, 21, 31, 41, 51]


def test_culprit_is_rendering_when_all_else_is_finite() -> None:
    model = spec().model.build(0)
    assert diagnostics.first_nonfinite_module(model, batch_of(spec(), 0)).startswith("rendering")
    model.aggregator.register_forward_hook(lambda _m, _i, out: [replace(t, grid=t.grid * torch.inf) for t in out])
    assert diagnostics.first_nonfinite_module(model, batch_of(spec(), 0)) == "the output of the aggregator"


@pytest.mark.parametrize("part", ["encoder", "aggregator", "head"])
def test_the_part_with_bad_weights_is_named(part: str) -> None:
    model = spec().model.build(0)
    with torch.no_grad():
        next(model.parts()[part].parameters()).view(-1)[0] = torch.inf
    assert diagnostics.first_nonfinite_module(model, batch_of(spec(), 0)) == f"the {part}'s weights"
