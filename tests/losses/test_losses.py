"""Each term of eq. 6 against its formula, written out scene by scene."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from support.balls import Balls
from torch import Tensor

from bench.common.errors import UserError
from bench.config.schema import ViewsSpec
from bench.data.batch import Batch
from bench.data.sampler import Sampler
from bench.data.view_selection import rig
from bench.losses import (
    Prediction,
    completion,
    confidence_points,
    lpips,
    matching,
    mse,
    points,
)
from bench.rendering import Rendering
from bench.runtime.lpips_weights import backbone_available, lpips_model
from models.tensors import Gaussians, Pixels, PointMap

CPU = torch.device("cpu")
NETS: Sequence[str] = ("alex", "vgg")


@pytest.fixture
def batch() -> Batch:
    return Sampler(Balls(32, count=3), ViewsSpec(rig.Spec(), inputs=2, targets=2), 0).training(0, range(3))


def prediction(batch: Batch, seed: int = 0) -> Prediction:
    """Noise of the batch's shapes, with gradients."""
    draw = torch.Generator().manual_seed(seed)
    means = torch.randn(batch.input_points.shape, generator=draw, requires_grad=True)
    shape = means.shape[:-1]
    g = Gaussians(means, torch.ones(*shape, 4), torch.ones(*shape, 3), torch.ones(shape), torch.ones(*shape, 1, 3))
    rgb = torch.rand(batch.targets.shape, generator=draw).requires_grad_()
    return Prediction(g, Rendering(rgb, batch.target_depth, batch.target_alpha))


def test_mse(batch: Batch) -> None:
    predicted = prediction(batch)
    expected = [
        sum((predicted.images[i] - batch.targets[i]).flatten() ** 2) / batch.targets[i].numel() for i in range(3)
    ]
    torch.testing.assert_close(mse.Spec().build(CPU)(predicted, batch), torch.stack(expected))


def test_points_count_on_the_foreground_alone(batch: Batch) -> None:
    predicted = prediction(batch)
    term = points.Spec().build(CPU)
    expected = []
    for i in range(3):
        where = batch.input_mask[i].nonzero().tolist()
        far = [(predicted.output.means[i, v, y, x] - batch.input_points[i, v, y, x]).norm() ** 2 for v, y, x in where]
        expected.append(sum(far, torch.zeros(())) / len(where))
    values = term(predicted, batch)
    torch.testing.assert_close(values, torch.stack(expected))
    values.sum().backward()
    assert torch.equal(predicted.output.means.grad.abs().sum(-1) > 0, batch.input_mask)


def test_points_of_an_empty_scene_are_free(batch: Batch) -> None:
    empty = replace(batch, input_mask=torch.zeros_like(batch.input_mask))
    assert points.Spec().build(CPU)(prediction(batch), empty).tolist() == [0, 0, 0]


def test_scenes_do_not_weigh_by_their_foreground(batch: Batch) -> None:
    """A mean over scenes of per-scene means: a scene alone has the value it has in a batch."""
    predicted, term = prediction(batch), points.Spec().build(CPU)
    alone = batch.scenes_at(1, 2)
    g = predicted.output
    cut = Gaussians(*(getattr(g, name)[1:2] for name in g.__dataclass_fields__))
    assert term(Prediction(cut, None), alone)[0] == term(predicted, batch)[1]


@pytest.mark.parametrize("net", NETS)
def test_lpips(batch: Batch, net: str) -> None:
    if not backbone_available(net):  # type: ignore[arg-type]
        pytest.skip("python -m bench.setup has not fetched the LPIPS backbones")
    predicted = prediction(batch)
    model = lpips_model(net)  # type: ignore[arg-type]
    values = lpips.Spec(net=net).build(CPU)(predicted, batch)  # type: ignore[arg-type]

    def distance(scene: int, view: int) -> Tensor:
        return model(predicted.images[scene, view][None], batch.targets[scene, view][None], normalize=True).flatten()

    expected = torch.cat([(distance(i, 0) + distance(i, 1)) / 2 for i in range(3)])
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)
    values.sum().backward()
    assert predicted.images.grad is not None and predicted.images.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in model.parameters())
    same = replace(predicted.rendering, rgb=batch.targets)  # type: ignore[type-var]
    assert lpips.Spec(net=net).build(CPU)(Prediction(predicted.output, same), batch).abs().max() < 1e-6  # type: ignore[arg-type]


def test_lpips_without_its_backbone_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("EAD_BENCH_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"bench\.setup"):
        lpips.Spec().build(CPU)


def test_weights_of_eq_6() -> None:
    assert (mse.Spec().weight, lpips.Spec().weight, points.Spec().weight) == (1.0, 0.05, 10.0)
    assert lpips.Spec().net == "vgg" and lpips.Spec.sizes["tiny"] == {"net": "alex"}


def pointmap(batch: Batch, scale: float = 1.0) -> PointMap:
    """The true points, scaled about the first camera, with confidence 2."""
    camera = batch.input_cameras.centers[:, 0, None, None, None]
    return PointMap(camera + scale * (batch.input_points - camera), torch.full(batch.input_mask.shape, 2.0))


def test_confidence_points_ignore_scale(batch: Batch) -> None:
    """Of the true points at any scale only −alpha · log confidence is left."""
    term = confidence_points.Spec(alpha=0.2).build(CPU)
    for scale in (1.0, 3.0):
        values = term(Prediction(pointmap(batch, scale)), batch)
        torch.testing.assert_close(values, torch.full((3,), -0.2 * math.log(2)), atol=1e-4, rtol=0)
    flat = replace(pointmap(batch), points=torch.zeros_like(batch.input_points) + torch.tensor([0.0, 0.3, 0.1]))
    assert (term(Prediction(flat), batch) > 0.1).all()


def test_completion_counts_the_hidden_patches_alone(batch: Batch) -> None:
    spec = completion.Spec(ratio=0.5, normalize=False)
    masked = spec.prepare(batch, patch=8, seed=0, step=0)
    assert masked.inputs.mask is not None
    hidden = ~masked.inputs.mask[:, 0]
    assert hidden.flatten(1).sum(1).tolist() == [8] * 3 and masked.inputs.mask[:, 1:].all()
    pixels = hidden.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
    images = batch.inputs.images.clone()
    images[:, 0] = torch.where(pixels, images[:, 0], 0.0)
    assert spec.build(CPU)(Prediction(Pixels(images)), masked).tolist() == [0, 0, 0]
    images[:, 0] = torch.where(pixels, images[:, 0] + 0.5, images[:, 0])
    torch.testing.assert_close(spec.build(CPU)(Prediction(Pixels(images)), masked), torch.full((3,), 0.25))


def same_view_twice(batch: Batch) -> Batch:
    """The second input view is the first, moved by one pixel's column: every surface point in both is known."""
    cameras = batch.input_cameras
    matrices, pixels = (x[:, :1].repeat(1, 2, 1, 1) for x in (cameras.world_to_camera, cameras.intrinsics))
    pixels[:, 1, 0, 2] += 1
    points, mask = (x[:, :1].repeat(1, 2, *[1] * (x.ndim - 2)) for x in (batch.input_points, batch.input_mask))
    points[:, 1], mask[:, 1] = points[:, 0].roll(1, 2), mask[:, 0].roll(1, 2)
    moved = replace(cameras, world_to_camera=matrices, intrinsics=pixels)
    return replace(batch, input_cameras=moved, input_points=points, input_mask=mask)


def test_matching_is_least_for_descriptors_of_the_surface(batch: Batch) -> None:
    """Descriptors that are functions of the surface point match, random ones do not."""
    batch = same_view_twice(batch)
    basis = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    true = torch.cat([(20 * batch.input_points @ basis).sin(), (20 * batch.input_points @ basis).cos()], dim=-1)
    noise = torch.randn(true.shape, generator=torch.Generator().manual_seed(1))
    ones = torch.ones(batch.input_mask.shape)

    def value(descriptors: Tensor) -> Tensor:
        unit = descriptors / descriptors.norm(dim=-1, keepdim=True)
        return matching.Spec().build(CPU)(Prediction(PointMap(batch.input_points, ones, unit, ones)), batch)

    assert (value(true) < 0.7 * value(noise)).all()


def test_correspondences_are_the_same_surface_point(batch: Batch) -> None:
    first, other = matching.correspondences(same_view_twice(batch), 0, 1, tolerance=0.02)
    assert torch.equal(first, batch.input_mask[0, 0].flatten().nonzero()[:, 0]) and torch.equal(other, first + 1)
