"""Every part of every folder, found by its file: a new encoder, aggregator or head is tested by being there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import models
from models import parts, weights
from models.ead import EAD, PACKAGES, EADSpec, Precision, count_parameters
from models.tensors import Cameras, Views

IMAGE, VIEWS = 32, 3
EVERY = [(part, name) for part, package in PACKAGES.items() for name in parts.names(package)]
PARTNERS = {"encoder": "conv", "aggregator": "self_attention", "head": "linear", "output": "gaussians"}


def spec_with(part: str, name: str) -> EADSpec:
    """The tiny model of the simplest parts, one of them replaced."""
    chosen = PARTNERS | {part: name}
    tiny = {}
    for slot, choice in chosen.items():
        cls = parts.spec_class(PACKAGES[slot], choice)
        tiny[slot] = cls(**cls.sizes.get("tiny", {}))  # type: ignore[arg-type]
    return EADSpec(**tiny, image_size=IMAGE, precision=Precision(aggregator="fp32", head="fp32"))  # type: ignore[arg-type]


def views(batch: int = 2) -> Views:
    return Views(torch.rand(batch, VIEWS, 3, IMAGE, IMAGE, generator=torch.Generator().manual_seed(0)))


@pytest.fixture(params=EVERY, ids=lambda case: "-".join(case), scope="module")
def spec(request: pytest.FixtureRequest) -> EADSpec:
    return spec_with(*request.param)


@pytest.fixture(scope="module")
def model(spec: EADSpec) -> EAD:
    return spec.build(seed=0)


def test_its_tiny_size_is_valid_and_survives_json(spec: EADSpec) -> None:
    assert list(spec.problems(VIEWS)) == []
    assert EADSpec.from_dict(spec.to_dict()) == spec


def test_shapes(model: EAD) -> None:
    gaussians = model(views())
    pixels = (2, VIEWS, IMAGE, IMAGE)
    assert gaussians.means.shape == gaussians.scales.shape == (*pixels, 3)
    assert gaussians.rotations.shape == (*pixels, 4) and gaussians.opacities.shape == pixels
    assert gaussians.harmonics.shape[:4] == pixels and gaussians.harmonics.shape[-1] == 3
    assert torch.allclose(gaussians.rotations.norm(dim=-1), torch.ones(pixels), atol=1e-5)
    assert gaussians.opacities.min() >= 0 and gaussians.opacities.max() <= 1 and gaussians.scales.min() > 0


def test_gradients_reach_every_part(model: EAD) -> None:
    model.zero_grad()
    gaussians = model(views())
    fields = (gaussians.means, gaussians.rotations, gaussians.scales, gaussians.opacities, gaussians.harmonics)
    torch.stack([(field * torch.rand_like(field)).sum() for field in fields]).sum().backward()
    for name, part in model.parts().items():
        gradients = [p.grad for p in part.parameters() if p.grad is not None]
        assert gradients and all(bool(g.isfinite().all()) for g in gradients), name
        # a published DPT has one unit that no forward pass reads
        unread = [key for key, p in part.named_parameters() if p.grad is None and not key.startswith("fuse.3.skip")]
        assert not unread, f"{name}: nothing reaches {unread[0]}"


def test_meta_build_counts_the_same(spec: EADSpec, model: EAD) -> None:
    with torch.device("meta"):
        assert count_parameters(spec.build()) == count_parameters(model)


def test_the_seed_decides(spec: EADSpec, model: EAD) -> None:
    state = torch.random.get_rng_state()
    again, other = spec.build(seed=0).state_dict(), spec.build(seed=1).state_dict()
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(value, again[key]) for key, value in model.state_dict().items())
    assert any(not torch.equal(value, other[key]) for key, value in again.items())


def test_saved_and_loaded(model: EAD, tmp_path: Path) -> None:
    weights.save_spec(model, tmp_path / weights.SPEC_FILE)
    weights.save_weights(model, tmp_path / weights.WEIGHTS_FILE)
    loaded = models.load(tmp_path)
    assert torch.equal(loaded(views()).means, model(views()).means)


def test_unknown_poses_stay_unknown(model: EAD) -> None:
    """Under `poses: unknown` cameras of NaN change nothing."""
    nan = Cameras(torch.full((2, VIEWS, 4, 4), torch.nan), torch.full((2, VIEWS, 3, 3), torch.nan), IMAGE, IMAGE)
    assert torch.equal(model(Views(views().images, nan)).means, model(views()).means)


def test_scenes_do_not_mix(model: EAD) -> None:
    both, first = model(views(2)).means[:1], model(Views(views(2).images[:1])).means
    assert torch.allclose(both, first, atol=1e-5)


@pytest.mark.parametrize("encoder", parts.names("models.encoders"))
def test_an_encoder_sees_each_view_alone(encoder: str) -> None:
    model = spec_with("encoder", encoder).build(seed=0)
    images = views(1).images
    changed = images.clone()
    changed[:, 1] = 0
    before, after = model.encoder(Views(images)).grid, model.encoder(Views(changed)).grid
    assert torch.equal(before[:, [0, 2]], after[:, [0, 2]]) and not torch.equal(before[:, 1], after[:, 1])


def test_source_views_may_change_places() -> None:
    """reference_source tells only the first view apart: the others' order permutes the output."""
    spec = spec_with("encoder", "conv")
    values = spec.to_dict()
    values["aggregator"]["view_embedding"] = "reference_source"
    model = EADSpec.from_dict(values).build(seed=0)
    images = views(1).images
    straight, swapped = model(Views(images)).means, model(Views(images[:, [0, 2, 1]])).means
    assert torch.allclose(straight[:, [0, 2, 1]], swapped, atol=1e-5)
    assert not torch.allclose(model(Views(images[:, [1, 0, 2]])).means[:, [1, 0, 2]], straight, atol=1e-3)


def test_swapping_the_head_leaves_the_rest_alone() -> None:
    linear, dpt = (spec_with("head", name).build(seed=3) for name in ("linear", "dpt"))
    for part in ("encoder", "aggregator"):
        other = dpt.parts()[part].state_dict()
        assert all(torch.equal(value, other[key]) for key, value in linear.parts()[part].state_dict().items())


def test_a_damaged_checkpoint_is_refused_by_its_first_key(model: EAD, tmp_path: Path) -> None:
    state = dict(model.state_dict())
    key = next(iter(state))
    for damaged, text in (
        ({k: v for k, v in state.items() if k != key}, "is missing"),
        (state | {"more": torch.zeros(1)}, "belongs to no parameter"),
        (state | {key: torch.zeros(1, 1)}, "has shape"),
    ):
        with pytest.raises(weights.WeightsError, match=text):
            weights.fill(model, damaged, "file")
