"""What every term must do, found by name: a new file in bench/losses is covered without an edit here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from support.balls import Balls
from support.training import spec

from bench import outputs
from bench.config.validate import problems
from bench.data.batch import Batch
from bench.data.sampler import Sampler
from bench.losses import LossSpec, NotAvailable, Prediction
from bench.rendering import Rendering
from bench.runtime.lpips_weights import backbone_available
from models.parts import available, spec_class
from models.tensors import Gaussians, Pixels, PointMap

CPU = torch.device("cpu")
SCENES, SIZE, PATCH = 3, 32, 8
NAMES = available("bench.losses")
OVER_VIEWS = [name for name in NAMES if vars(spec_class("bench.losses", name)).get("over_views")]


def loss_of(name: str) -> LossSpec:
    cls = spec_class("bench.losses", name)
    assert issubclass(cls, LossSpec)
    if name == "lpips" and not (backbone_available("vgg")):
        pytest.skip("python -m bench.setup has not fetched the LPIPS backbones")
    return cls()  # type: ignore[call-arg]


@pytest.fixture(scope="module")
def batch() -> Batch:
    return Sampler(Balls(SIZE, SCENES), spec().views, 0).training(0, range(SCENES))


def gaussians(batch: Batch, draw: torch.Generator) -> Gaussians:
    shape = batch.input_mask.shape
    means = batch.input_points + 0.1 * torch.randn(*shape, 3, generator=draw)
    return Gaussians(
        means.requires_grad_(),
        torch.ones(*shape, 4),
        torch.ones(*shape, 3),
        torch.ones(shape),
        torch.ones(*shape, 1, 3),
    )


def pointmap(batch: Batch, draw: torch.Generator) -> PointMap:
    shape = batch.input_mask.shape
    descriptors = torch.randn(*shape, 6, generator=draw)
    return PointMap(
        points=(batch.input_points + 0.1 * torch.randn(*shape, 3, generator=draw)).requires_grad_(),
        confidence=(1 + torch.rand(shape, generator=draw)).requires_grad_(),
        descriptors=(descriptors / descriptors.norm(dim=-1, keepdim=True)).requires_grad_(),
        descriptor_confidence=(1 + torch.rand(shape, generator=draw)).requires_grad_(),
    )


def predictions(batch: Batch) -> list[Prediction]:
    """One of each type; Gaussians with and without a rendering."""
    draw = torch.Generator().manual_seed(0)
    rgb = torch.rand(batch.targets.shape, generator=draw).requires_grad_()
    rendering = Rendering(rgb, batch.target_depth.clone().requires_grad_(), batch.target_alpha.clone().requires_grad_())
    images = torch.rand(batch.inputs.images.shape, generator=draw).requires_grad_()
    outputs_ = [gaussians(batch, draw), pointmap(batch, draw), Pixels(images)]
    return [Prediction(outputs_[0], rendering), *map(Prediction, outputs_)]


def leaves(prediction: Prediction) -> list[torch.Tensor]:
    tensors = [*outputs.tensors(prediction.output)]
    if prediction.rendering is not None:
        tensors += [prediction.rendering.rgb, prediction.rendering.depth, prediction.rendering.alpha]
    return [tensor for tensor in tensors if tensor.requires_grad]


def usable(loss: LossSpec, batch: Batch) -> list[Prediction]:
    """The predictions that have what a term needs."""

    def has(prediction: Prediction) -> bool:
        output, type_ = prediction.output, outputs.of(prediction.output)
        available = {
            "rendering": prediction.rendering,
            "surface_points": type_.surface_points(output),
            "confidence": type_.confidence(output),
            "descriptors": type_.descriptors(output),
            "images": type_.images(output),
        }
        return all(available[capability] is not None for capability in loss.needs)

    return [prediction for prediction in predictions(batch) if has(prediction)]


@pytest.mark.parametrize("name", NAMES)
def test_one_finite_value_a_scene(name: str, batch: Batch) -> None:
    loss = loss_of(name)
    assert loss.weight > 0 and usable(loss, batch), "no output type has what this term needs"
    for prediction in usable(loss, batch):
        values = loss.build(CPU)(prediction, batch)
        assert values.shape == (SCENES,) and values.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_reaches_the_prediction(name: str, batch: Batch) -> None:
    loss = loss_of(name)
    for prediction in usable(loss, batch):
        loss.build(CPU)(prediction, batch).sum().backward()
        gradients = [tensor.grad for tensor in leaves(prediction) if tensor.grad is not None]
        assert gradients and all(gradient.isfinite().all() for gradient in gradients)
        assert any(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("name", NAMES)
def test_a_scene_alone_has_the_value_it_has_in_a_batch(name: str, batch: Batch) -> None:
    loss = loss_of(name)
    term = loss.build(CPU)
    for prediction in usable(loss, batch):
        output = type(prediction.output)(**{k: v[1:2] for k, v in vars(prediction.output).items()})
        rendering = prediction.rendering
        if rendering is not None:
            rendering = Rendering(**{k: v[1:2] for k, v in vars(rendering).items()})
        alone = term(Prediction(output, rendering), batch.scenes_at(1, 2))
        torch.testing.assert_close(alone[0], term(prediction, batch)[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OVER_VIEWS)
def test_a_term_over_views_is_the_mean_of_its_views(name: str, batch: Batch) -> None:
    loss = loss_of(name)
    (prediction,) = usable(loss, batch)
    term, views = loss.build(CPU), batch.targets.shape[1]

    def of(start: int, stop: int) -> torch.Tensor:
        layers = {k: v[:, start:stop] for k, v in vars(prediction.rendering).items()}
        return term(Prediction(prediction.output, Rendering(**layers)), batch.targets_at(start, stop))

    mean = torch.stack([of(i, i + 1) for i in range(views)]).mean(0)
    torch.testing.assert_close(mean, of(0, views), rtol=1e-5, atol=1e-7)


def test_a_term_that_is_no_mean_over_views_gets_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    run = spec()
    run = replace(run, losses={**run.losses, "mse": loss_of("mse")}, train=replace(run.train, views_at_once=1))
    assert "train.views_at_once" not in [problem.field for problem in problems(run)]
    monkeypatch.setattr(spec_class("bench.losses", "mse"), "over_views", False)
    (problem,) = (problem for problem in problems(run) if problem.field == "train.views_at_once")
    assert "losses.mse" in problem.message and "over_views = True" in problem.message


@pytest.mark.parametrize("name", NAMES)
def test_what_it_needs_is_what_it_reads(name: str, batch: Batch) -> None:
    """A prediction without it is refused, never read as zero."""
    loss = loss_of(name)
    capable = usable(loss, batch)
    for prediction in predictions(batch):
        same_type = [other for other in capable if type(other.output) is type(prediction.output)]
        if not same_type or ("rendering" in loss.needs and prediction.rendering is None):
            with pytest.raises(NotAvailable):
                loss.build(CPU)(prediction, batch)


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_of_zero_is_allowed_and_a_negative_one_is_not(name: str) -> None:
    loss = loss_of(name)
    run = spec()
    silent = replace(run, losses={**run.losses, name: replace(loss, weight=0.0)})
    fields = [problem.field for problem in problems(silent)]
    assert f"losses.{name}" not in fields and f"losses.{name}.weight" not in fields
    wrong = replace(run, losses={**run.losses, name: replace(loss, weight=-1.0)})
    assert f"losses.{name}.weight" in [problem.field for problem in problems(wrong)]


@pytest.mark.parametrize("name", NAMES)
def test_micro_batches_are_prepared_alike(name: str, batch: Batch) -> None:
    loss = loss_of(name)
    options: dict[str, Any] = {"patch": PATCH, "seed": 1, "step": 7}
    whole, part = loss.prepare(batch, **options), loss.prepare(batch.scenes_at(1, 3), **options)
    expected, actual = whole.inputs.mask, part.inputs.mask
    assert (expected is None) == (actual is None)
    if expected is not None and actual is not None:
        assert torch.equal(expected[1:3], actual)
        other = loss.prepare(batch, patch=PATCH, seed=1, step=8).inputs.mask
        assert other is not None and not torch.equal(expected, other)


@pytest.mark.parametrize("name", ["images", "depth", "alpha"])
def test_rendered_properties_are_guarded(name: str, batch: Batch) -> None:
    with pytest.raises(NotAvailable, match="nothing was rendered"):
        getattr(predictions(batch)[1], name)
