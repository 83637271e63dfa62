"""Every part of every folder, found by its file: a new encoder, aggregator or head is tested by being there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import models
from models import parts, weights
from models.ead import EAD, PACKAGES, EADSpec, Precision, count_parameters
from models.tensors import Cameras, Tokens, Views

IMAGE, VIEWS = 32, 3
EVERY = [(part, name) for part, package in PACKAGES.items() for name in parts.available(package)]
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


def test_parts_that_read_no_cameras_may_be_given_any(spec: EADSpec, model: EAD) -> None:
    """Not only because the model keeps them away."""
    if any(getattr(spec, part).reads_cameras for part in PACKAGES):
        pytest.skip("reads cameras")
    nan = Cameras(torch.full((2, VIEWS, 4, 4), torch.nan), torch.full((2, VIEWS, 3, 3), torch.nan), IMAGE, IMAGE)
    seen = Views(views().images, nan)
    dense = model.head(model.aggregator(model.encoder(seen), None, model.levels), seen)
    assert torch.equal(model.output(dense, seen).means, model(views()).means)


def test_it_starts_sane(model: EAD) -> None:
    """Opacities about one half, scales inside their range, means about the middle of the frame."""
    gaussians = model(views())
    assert gaussians.opacities.min() > 0.1 and gaussians.opacities.max() < 0.9
    assert gaussians.means.mean().abs() < 0.2 and gaussians.means.std() < 1
    assert gaussians.scales.std() < 0.3 * gaussians.scales.mean()


def test_scenes_do_not_mix(model: EAD) -> None:
    both, first = model(views(2)).means[:1], model(Views(views(2).images[:1])).means
    assert torch.allclose(both, first, atol=1e-5)


@pytest.mark.parametrize("encoder", parts.available("models.encoders"))
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
            weights.load_strict(model, damaged, "file")


class Classy(torch.nn.Module):
    """An encoder whose views each have two extra tokens."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, views: Views) -> Tokens:
        grid = self.encoder(views).grid
        return Tokens(grid, extra=grid[:, :, 0, :2] + 1)


def test_class_tokens_join_the_attention() -> None:
    model = spec_with("encoder", "conv").build(seed=0)
    plain = model.aggregator(model.encoder(views()), None, (0, 1, 2))
    model.encoder = Classy(model.encoder)
    joined = model.aggregator(model.encoder(views()), None, (0, 1, 2))
    for before, after in zip(plain, joined, strict=True):
        assert before.extra is None and after.extra is not None and after.extra.shape == (2, VIEWS, 2, 192)
        assert before.grid.shape == after.grid.shape
    assert torch.equal(plain[0].grid, joined[0].grid) and not torch.allclose(plain[2].grid, joined[2].grid)


def test_views_that_are_not_square_are_refused() -> None:
    model = spec_with("encoder", "conv").build(seed=0)
    with pytest.raises(ValueError, match="8 × 4 patches; crop or pad"):
        model(Views(torch.rand(1, VIEWS, 3, 32, 16)))


@pytest.mark.parametrize(
    ("change", "field", "advice"),
    [
        ({"image_size": 30}, "encoder.patch", "choose a patch that does"),
        ({"encoder": {"name": "croco", "patch": 8, "width": 190}}, "encoder.heads", "choose one that divides it"),
        ({"encoder": {"name": "croco", "patch": 8, "width": 96, "heads": 16}}, "encoder.heads", "divisible by 4"),
        ({"encoder": {"name": "conv", "patch": 0}}, "encoder.patch", "at least 1"),
        ({"aggregator": {"name": "self_attention", "heads": 7}}, "aggregator.heads", "choose one that divides it"),
        ({"aggregator": {"name": "self_attention", "table_size": 18}}, "aggregator.table_size", "choose one that is"),
        ({"aggregator": {"name": "self_attention", "blocks": 0}}, "aggregator.blocks", "at least 1"),
        ({"head": {"name": "dpt", "taps": [0, 1, 2, 5]}}, "head.taps", "outside 0…4"),
        ({"head": {"name": "dpt", "taps": [0, 1, 2, 2]}}, "head.taps", "end the taps at 4"),
        ({"head": {"name": "dpt", "taps": [0, 2, 4, 4]}}, None, ""),
        ({"output": {"name": "gaussians", "scale_min": 0.1}}, "output.scale_min", "between 0 and scale_max"),
        ({"poses": "known"}, "poses", "use poses: unknown"),
    ],
)
def test_each_rule_says_what_to_do(change: dict[str, Any], field: str | None, advice: str) -> None:
    values = spec_with("encoder", "conv").to_dict()
    values["aggregator"] |= {"blocks": 4}
    for key, value in change.items():
        same = isinstance(value, dict) and values[key]["name"] == value["name"]
        values[key] = values[key] | value if same else value
    found = [*EADSpec.from_dict(values).problems(VIEWS)]
    assert [problem.field for problem in found] == ([field] if field else [])
    assert all(advice in problem.message for problem in found)


def test_per_view_embeddings_must_be_enough() -> None:
    found = [*spec_with("encoder", "conv").problems(5)]
    assert [problem.field for problem in found] == ["aggregator.views"] and "set views: 5" in found[0].message


def test_a_newer_folder_is_refused(model: EAD, tmp_path: Path) -> None:
    weights.save_spec(model, tmp_path / weights.SPEC_FILE)
    weights.save_weights(model, tmp_path / weights.WEIGHTS_FILE)
    path = tmp_path / weights.SPEC_FILE
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(weights.WeightsError, match="schema version 2"):
        models.load(tmp_path)


def test_half_precision_is_the_parts_own() -> None:
    """bf16 for A and D rounds their products and nothing else: E's tokens and the Gaussians stay float32."""
    full = spec_with("encoder", "croco")
    model, exact = replace(full, precision=Precision()).build(seed=0), full.build(seed=0)
    assert torch.equal(model.encoder(views()).grid, exact.encoder(views()).grid)
    rounded, means = model(views()).means, exact(views()).means
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, means)
    assert torch.allclose(rounded, means, atol=0.05)
