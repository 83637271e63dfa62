"""What is measured of outputs without pictures, and the trivial baselines that they are compared with."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.balls import Balls
from support.training import SIZE, spec
from torch import Tensor

from bench.data.batch import Batch
from bench.data.sampler import Sampler
from bench.evaluation import metrics, without_pictures
from bench.losses import completion
from models.tensors import Pixels, PointMap


@pytest.fixture
def batch() -> Batch:
    of = spec()
    return Sampler(Balls(SIZE), of.views, of.seed).evaluation(["evaluation/0", "evaluation/1"])


def pointmap(points: Tensor) -> PointMap:
    return PointMap(points, torch.ones(points.shape[:-1]))


def mean_error(point: Tensor, batch: Batch) -> Tensor:
    everywhere = point[:, None, None, None].expand_as(batch.input_points)
    return metrics.point_error(everywhere, batch.input_points, batch.input_mask).mean(1)


def test_no_constant_point_does_better(batch: Batch) -> None:
    best = without_pictures.best_constant_point(batch.input_points, batch.input_mask)
    least = mean_error(best, batch)
    for shift in 0.02 * torch.cat([torch.eye(3), -torch.eye(3)]):
        assert (mean_error(best + shift, batch) > least).all()
    values = without_pictures.score(pointmap(batch.input_points), None, batch, {})
    assert torch.allclose(values["constant"]["point_error"].mean(1), least) and "model" not in values


def test_pointmaps_are_right_up_to_scale(batch: Batch) -> None:
    """True points, farther from the first camera by a constant factor, have no error; shifted ones have."""
    center = batch.input_cameras.centers[:, :1, None, None]
    foreground = batch.target_alpha > 0.5
    errors = [
        metrics.geometry(pointmap(points), None, batch, foreground, 4)[0]["point_error"].mean()
        for points in (center + 1.7 * (batch.input_points - center), batch.input_points + 0.1)
    ]
    assert errors[0] < 1e-5 and errors[1] > 0.05


@pytest.mark.parametrize("normalize", [True, False])
def test_completion_is_compared_with_the_mean_of_each_patch(batch: Batch, normalize: bool) -> None:
    losses = {"completion": completion.Spec(normalize=normalize)}
    hidden = without_pictures.prepare(losses, batch, patch=4)
    assert hidden.inputs.mask is not None and not hidden.inputs.mask[:, 0].all() and hidden.inputs.mask[:, 1:].all()
    assert torch.equal(hidden.inputs.mask, without_pictures.prepare(losses, batch, patch=4).inputs.mask)
    values = without_pictures.score(Pixels(batch.inputs.images), None, hidden, losses)
    trivial = values["patch_mean"]["completion_error"]
    assert (trivial > 0).all() and trivial.shape == values["model"]["completion_error"].shape == (2, 1)
    assert normalize or (values["model"]["completion_error"] == 0).all()


def test_outputs_with_pictures_are_compared_by_them(batch: Batch) -> None:
    from bench.evaluation.evaluate import predict

    model = replace(spec().model).build(seed=0)
    output, rendering = predict(model, batch)
    assert without_pictures.score(output, rendering, batch, {}) == {}
