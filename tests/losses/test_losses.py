"""Each term of eq. 6 against its formula, written out scene by scene."""

from __future__ import annotations

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
    LossSpec,
    Prediction,
    lpips,
    mse,
    points,
)
from bench.rendering import Rendering
from bench.runtime.lpips_weights import backbone_available, lpips_model
from models.parts import available, spec_class
from models.tensors import Gaussians

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
    made = prediction(batch)
    expected = [sum((made.images[i] - batch.targets[i]).flatten() ** 2) / batch.targets[i].numel() for i in range(3)]
    torch.testing.assert_close(mse.Spec().build(CPU)(made, batch), torch.stack(expected))


def test_points_count_on_the_foreground_alone(batch: Batch) -> None:
    made = prediction(batch)
    term = points.Spec().build(CPU)
    expected = []
    for i in range(3):
        where = batch.input_mask[i].nonzero().tolist()
        far = [(made.output.means[i, v, y, x] - batch.input_points[i, v, y, x]).norm() ** 2 for v, y, x in where]
        expected.append(sum(far, torch.zeros(())) / len(where))
    values = term(made, batch)
    torch.testing.assert_close(values, torch.stack(expected))
    values.sum().backward()
    assert torch.equal(made.output.means.grad.abs().sum(-1) > 0, batch.input_mask)


def test_points_of_an_empty_scene_are_free(batch: Batch) -> None:
    empty = replace(batch, input_mask=torch.zeros_like(batch.input_mask))
    assert points.Spec().build(CPU)(prediction(batch), empty).tolist() == [0, 0, 0]


def test_scenes_do_not_weigh_by_their_foreground(batch: Batch) -> None:
    """A mean over scenes of per-scene means: a scene alone has the value it has in a batch."""
    made, term = prediction(batch), points.Spec().build(CPU)
    alone = batch.scenes_at(1, 2)
    g = made.output
    cut = Gaussians(*(getattr(g, name)[1:2] for name in g.__dataclass_fields__))
    assert term(Prediction(cut, None), alone)[0] == term(made, batch)[1]


@pytest.mark.parametrize("net", NETS)
def test_lpips(batch: Batch, net: str) -> None:
    if not backbone_available(net):  # type: ignore[arg-type]
        pytest.skip("python -m bench.setup has not fetched the LPIPS backbones")
    made = prediction(batch)
    model = lpips_model(net)  # type: ignore[arg-type]
    values = lpips.Spec(net=net).build(CPU)(made, batch)  # type: ignore[arg-type]

    def distance(scene: int, view: int) -> Tensor:
        return model(made.images[scene, view][None], batch.targets[scene, view][None], normalize=True).flatten()

    expected = torch.cat([(distance(i, 0) + distance(i, 1)) / 2 for i in range(3)])
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)
    values.sum().backward()
    assert made.images.grad is not None and made.images.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in model.parameters())
    same = replace(made.rendering, rgb=batch.targets)  # type: ignore[type-var]
    assert lpips.Spec(net=net).build(CPU)(Prediction(made.output, same), batch).abs().max() < 1e-6  # type: ignore[arg-type]


def test_lpips_without_its_backbone_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("EAD_BENCH_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"bench\.setup"):
        lpips.Spec().build(CPU)


def test_terms_that_need_no_rendering_do_without(batch: Batch) -> None:
    unrendered = Prediction(prediction(batch).output, None)
    for name in available("bench.losses"):
        term = spec_class("bench.losses", name)
        assert issubclass(term, LossSpec) and term().weight > 0, name  # type: ignore[call-arg]
        if name == "lpips" and not backbone_available("vgg"):
            continue
        if "rendering" in term.needs:
            with pytest.raises(ValueError, match="nothing was rendered"):
                term().build(CPU)(unrendered, batch)  # type: ignore[call-arg]
        else:
            assert term().build(CPU)(unrendered, batch).isfinite().all()  # type: ignore[call-arg]


def test_weights_of_eq_6() -> None:
    assert (mse.Spec().weight, lpips.Spec().weight, points.Spec().weight) == (1.0, 0.05, 10.0)
    assert lpips.Spec().net == "vgg" and lpips.Spec.sizes["tiny"] == {"net": "alex"}
