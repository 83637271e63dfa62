"""Every part of every folder, found by its file: a new encoder, aggregator or head is tested by being there."""

from __future__ import annotations

import math
import re
from dataclasses import fields, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

import models
from bench.common.compat import is_dropout
from bench.config.schema import TrainSpec
from bench.training.recompute import save_activations
from models import parts, weights
from models.aggregators import self_attention
from models.ead import EAD, PACKAGES, EADSpec, Precision, count_parameters
from models.encoders import dino
from models.heads import dpt
from models.outputs import pointmap
from models.tensors import Cameras, Dense, Gaussians, Output, Pixels, PointMap, Tokens, TokenSpec, Triplane, Views

IMAGE, VIEWS = 32, 3
EVERY = [(part, name) for part, package in PACKAGES.items() for name in parts.available(package)]
SIMPLE = {"encoder": "conv", "aggregator": "self_attention", "head": "linear", "output": "gaussians"}
UNREAD = (  # what published models hold and no forward pass reads: DPT's coarsest unit, mask tokens, descriptors
    r"(.*\.)?fuse\.3\.skip\..*", "mask_token", r"parts\.descriptors\..*",
)  # fmt: skip


def tiny(part: str, name: str) -> Any:
    cls = parts.spec_class(PACKAGES[part], name)
    return cls(**cls.sizes.get("tiny", {}))  # type: ignore[arg-type]


@cache
def spec_with(part: str, name: str) -> EADSpec:
    """The tiny model of the simplest parts with one of them replaced, and others where those do not fit it."""
    choices = [
        [name] if slot == part else sorted(parts.available(package), key=lambda choice: choice != SIMPLE[slot])
        for slot, package in PACKAGES.items()
    ]
    for names in sorted(
        product(*choices), key=lambda names: sum(n != s for n, s in zip(names, SIMPLE.values(), strict=True))
    ):
        chosen = {slot: tiny(slot, choice) for slot, choice in zip(PACKAGES, names, strict=True)}
        spec = EADSpec(**chosen, image_size=IMAGE, precision=Precision(aggregator="fp32", head="fp32"))
        if any(value.reads_cameras for value in chosen.values()):
            spec = replace(spec, poses="known")
        if not [*spec.problems(VIEWS)]:
            return spec
    raise AssertionError(f"no model takes {part} {name}")


def cameras(batch: int = 2) -> Cameras:
    """On a circle of radius 2 around the origin, looking at it."""
    angles = torch.arange(VIEWS) * 0.7
    world_to_camera = torch.eye(4).repeat(batch, VIEWS, 1, 1)
    world_to_camera[..., 0, 0] = world_to_camera[..., 2, 2] = angles.cos()
    world_to_camera[..., 0, 2], world_to_camera[..., 2, 0] = angles.sin(), -angles.sin()
    world_to_camera[..., 2, 3] = 2
    intrinsics = torch.tensor([[40.0, 0, IMAGE / 2], [0, 40.0, IMAGE / 2], [0, 0, 1]]).expand(batch, VIEWS, 3, 3)
    return Cameras(world_to_camera, intrinsics, IMAGE, IMAGE)


def views(batch: int = 2) -> Views:
    images = torch.rand(batch, VIEWS, 3, IMAGE, IMAGE, generator=torch.Generator().manual_seed(0))
    return Views(images, cameras(batch))


def tensors_of(output: Output) -> dict[str, torch.Tensor]:
    """All of an output's tensors; of a triplane also what its decoder makes of the planes."""
    tensors = {f.name: value for f in fields(output) if isinstance(value := getattr(output, f.name), torch.Tensor)}
    if isinstance(output, Triplane):
        features = (
            output.planes.movedim(2, -1).transpose(1, -2).flatten(-2)
        )  # batch rows cols (plane channel), any order
        tensors["rgb"], tensors["density"] = output.decoder(features)
    return tensors


@pytest.fixture(params=EVERY, ids=lambda case: "-".join(case), scope="module")
def spec(request: pytest.FixtureRequest) -> EADSpec:
    return spec_with(*request.param)


@pytest.fixture(scope="module")
def model(spec: EADSpec) -> EAD:
    return spec.build(seed=0)


def test_its_tiny_size_is_valid_and_survives_json(spec: EADSpec) -> None:
    assert list(spec.problems(VIEWS)) == []
    assert EADSpec.from_dict(spec.to_dict()) == spec


def test_shapes(spec: EADSpec, model: EAD) -> None:
    """Of each kind of output, with values in their ranges."""
    output = model(views())
    pixels = (2, VIEWS, IMAGE, IMAGE)
    if isinstance(output, Gaussians):
        shape = output.opacities.shape
        assert (
            shape == pixels if spec.aggregator.levels(spec.encoder.tokens())[-1].layout == "views" else len(shape) == 2
        )
        assert output.means.shape == output.scales.shape == (*shape, 3) and output.rotations.shape == (*shape, 4)
        assert output.harmonics.shape[:-2] == shape and output.harmonics.shape[-1] == 3
        assert output.pixel_aligned == (shape == pixels) and output.flat().means.shape[0] == 2
        assert torch.allclose(output.rotations.norm(dim=-1), torch.ones(shape), atol=1e-5)
        assert output.opacities.min() >= 0 and output.opacities.max() <= 1 and output.scales.min() > 0
    elif isinstance(output, PointMap):
        assert output.points.shape == (*pixels, 3) and output.confidence.shape == pixels
        assert output.confidence.min() >= 1
    elif isinstance(output, Pixels):
        assert output.images.shape == (2, VIEWS, 3, IMAGE, IMAGE)
    else:
        assert output.planes.shape[:2] == (2, 3)
    assert spec.output.kind == type(output).__name__.lower()


def test_gradients_reach_every_part(model: EAD) -> None:
    model.zero_grad()
    tensors = tensors_of(model(views())).values()
    torch.stack([(tensor * torch.rand_like(tensor)).sum() for tensor in tensors]).sum().backward()
    for name, part in model.parts().items():
        gradients = [p.grad for p in part.parameters() if p.grad is not None]
        assert gradients and all(bool(g.isfinite().all()) for g in gradients), name
        unread = [key for key, p in part.named_parameters() if p.grad is None]
        assert not (unexpected := [key for key in unread if not any(re.fullmatch(r, key) for r in UNREAD)]), (
            f"{name}: {unexpected}"
        )


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
    assert_equal(loaded(views()), model.eval()(views()))


def test_unknown_cameras_stay_unknown(spec: EADSpec, model: EAD) -> None:
    """Cameras of NaN change nothing, but under `poses: known`."""
    nan = Cameras(torch.full((2, VIEWS, 4, 4), torch.nan), torch.full((2, VIEWS, 3, 3), torch.nan), IMAGE, IMAGE)
    blind = Views(views().images, nan)
    if spec.poses == "known":
        assert any(tensor.isnan().any() for tensor in tensors_of(model(blind)).values())
        with pytest.raises(ValueError, match="this model reads cameras"):
            model(Views(views().images))
        return
    assert_equal(model(blind), model(views()))
    tokens = model.encoder(blind)  # not only because the model keeps them away
    taps = model.aggregator(tokens, nan, model.levels)
    assert_equal(model.output(model.head(taps, blind), blind), model(views()))


def assert_equal(one: Output, other: Output) -> None:
    theirs = tensors_of(other)
    assert all(torch.equal(value, theirs[name]) for name, value in tensors_of(one).items())


def test_it_starts_sane(model: EAD) -> None:
    """Gaussians neither transparent nor opaque, scales alike (of each axis), means about the middle of the frame."""
    output = model(views())
    if isinstance(output, Gaussians):
        opacities, means, scales = output.opacities, output.means, output.scales.flatten(0, -2)
        low, high = opacities.min().item(), opacities.max().item()
        assert low > 0.02 and high < 0.95, f"untrained opacities lie in {low:.2f} … {high:.2f}, not in 0.02 … 0.95"
        offset, spread = means.mean().abs().item(), means.std().item()
        assert offset < 0.3 and spread < 1.2, (
            f"untrained means lie {offset:.2f} ± {spread:.2f} from the origin: objects are 0.9 wide about it"
        )
        size = scales.mean().item()
        assert 0.005 < size < 0.2, f"untrained scales are {size:.4f} on average: 0.005 to 0.2 fit objects 0.9 wide"
        ratios = (scales.std(0) / scales.mean(0)).tolist()
        assert max(ratios) < 0.5, f"untrained scales of an axis differ by {ratios} of their mean: at most 0.5"
    else:
        assert all(tensor.isfinite().all() and tensor.abs().max() < 20 for tensor in tensors_of(output).values())


def test_scenes_do_not_mix(model: EAD) -> None:
    both, first = tensors_of(model(views(2))), tensors_of(model(Views(views(2).images[:1], cameras(1))))
    assert all(torch.allclose(value[:1], first[name], atol=1e-5) for name, value in both.items())


@pytest.mark.parametrize("encoder", parts.available("models.encoders"))
def test_an_encoder_sees_each_view_alone(encoder: str) -> None:
    model = spec_with("encoder", encoder).build(seed=0)
    images = views(1).images
    changed = images.clone()
    changed[:, 1] = 0
    before, after = model.encoder(Views(images, cameras(1))).grid, model.encoder(Views(changed, cameras(1))).grid
    assert torch.equal(before[:, [0, 2]], after[:, [0, 2]]) and not torch.equal(before[:, 1], after[:, 1])


def test_source_views_may_change_places() -> None:
    """reference_source distinguishes only the first view: the others' order permutes the output."""
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


@pytest.mark.parametrize("head", ["linear", "dpt"])
def test_each_part_has_a_precision_of_its_own(head: str) -> None:
    """Every combination runs forward and backward, whatever the part before it computed in; the output is fp32."""
    spec = spec_with("head", head)
    exact = spec.build(seed=0)(views()).means
    for encoder, aggregator, last in product(("fp32", "bf16"), repeat=3):
        model = replace(spec, precision=Precision(encoder, aggregator, last)).build(seed=0)
        means = model(views()).means
        means.square().sum().backward()
        assert means.dtype == torch.float32 and torch.allclose(means, exact, atol=0.05)
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_small_dpt_passes_on_what_the_tokens_say() -> None:
    """Tiny and small models initialize it so that its output varies over pixels as the tokens do; torch's does not."""
    spread = {}
    for name in ("torch", "lecun"):
        spec = spec_with("head", "dpt")
        model = replace(spec, head=replace(spec.head, initialization=name)).build(seed=0)
        spread[name] = float(model(views()).means.detach().std((2, 3)).mean())
    assert spread["lecun"] > 10 * spread["torch"] and 0.05 < spread["lecun"] < 0.5
    assert all(dpt.Spec.sizes[scale]["initialization"] == "lecun" for scale in ("tiny", "small"))


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
    spec = spec_with("encoder", "conv")
    model = spec.build(seed=0)
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
    problems = [*EADSpec.from_dict(values).problems(VIEWS)]
    assert [problem.field for problem in problems] == ([field] if field else [])
    assert all(advice in problem.message for problem in problems)


def test_per_view_embeddings_must_be_enough() -> None:
    problems = [*spec_with("encoder", "conv").problems(5)]
    assert [problem.field for problem in problems] == ["aggregator.views"] and "set views: 5" in problems[0].message


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


def test_hidden_patches_reach_nothing() -> None:
    """What E's masked patches show changes no token, and nothing that a decoder makes of them."""
    mask = torch.ones(2, VIEWS, IMAGE // 8, IMAGE // 8, dtype=torch.bool)
    mask[:, 0, :2] = False
    images = views().images
    changed = images.clone()
    changed[:, 0, :, :16] = 0
    for name in ("croco", "dino"):
        encoder = spec_with("encoder", name).build(0).encoder
        before, after = encoder(Views(images, mask=mask)), encoder(Views(changed, mask=mask))
        assert torch.equal(before.grid, after.grid) and before.mask is mask
        if before.extra is not None and after.extra is not None:
            assert torch.equal(before.extra, after.extra)
    spec = spec_with("encoder", "croco")
    model = replace(spec, aggregator=tiny("aggregator", "cross_attention")).build(0)
    output, other = model(Views(images, mask=mask)), model(Views(changed, mask=mask))
    assert_equal(output, other)
    output.means.sum().backward()
    assert model.aggregator.mask_token.grad.any()
    with pytest.raises(ValueError, match="encoder conv does not read masks"):
        spec_with("encoder", "conv").build(0)(Views(images, mask=mask))


def test_dinov2_reads_a_mask_token() -> None:
    encoder = dino.Spec(version="dinov2", patch=8, width=48, blocks=1, heads=2, registers=2, table_size=32).build()
    mask = torch.zeros(2, VIEWS, 4, 4, dtype=torch.bool)
    mask[..., 2:] = True
    changed = views().images.clone()
    changed[..., :16] = 1
    tokens = encoder(Views(views().images, mask=mask))
    assert torch.equal(tokens.grid, encoder(Views(changed, mask=mask)).grid)
    tokens.grid.sum().backward()
    assert encoder.mask_token.grad is not None


@pytest.mark.parametrize(("patch", "image_patch"), [(7, 8), (14, 16), (8, None)])
def test_a_patch_that_divides_no_image_resizes_inside_the_encoder(patch: int, image_patch: int | None) -> None:
    spec = dino.Spec(patch=patch, image_patch=image_patch, width=48, blocks=1, heads=2, table_size=4 * patch)
    tokens = spec.build()(views())
    side = IMAGE // spec.tokens().patch
    assert tokens.grid.shape == (2, VIEWS, side, side, 48) and tokens.extra.shape == (2, VIEWS, 1, 48)


def test_a_head_a_view() -> None:
    """view_weights: reference_source has one set for the first view and one for all others."""
    spec = spec_with("head", "dpt")
    spec = replace(spec, head=replace(spec.head, view_weights="reference_source"))
    model = spec.build(seed=0)
    before = model(views())
    with torch.no_grad():
        for parameter in model.head.source.parameters():
            parameter.add_(0.1)
    after = model(views())
    assert torch.equal(before.means[:, 0], after.means[:, 0]) and not torch.equal(
        before.means[:, 1:], after.means[:, 1:]
    )
    single = model(Views(views().images[:, :1]))
    assert single.means.shape[1] == 1
    assert EADSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize("name", parts.available(PACKAGES["head"]))
def test_groups_of_views_are_all_of_them_at_once(name: str) -> None:
    """train.head_views, of each head that does not say that it mixes views; dropout is drawn anew for each group."""
    spec = spec_with("head", name)
    if spec.head.mixes_views:
        pytest.skip("train.head_views is refused")
    together, grouped = spec.build(seed=0), spec.build(seed=0)
    save_activations(grouped, TrainSpec(head_views=1))
    for module in (*together.modules(), *grouped.modules()):
        module.train(not is_dropout(module))
    expected, actual = (tensors_of(model(views())) for model in (together, grouped))
    for key, value in expected.items():
        torch.testing.assert_close(actual[key], value, rtol=1e-4, atol=1e-5, msg=lambda text, k=key: (
            f"{k}: a view depends on others: `mixes_views = True` in the head's Spec; {text}"
        ))  # fmt: skip


def test_intrinsics_alone_reach_the_encoder() -> None:
    """NoPoSplat's token: other intrinsics, other tokens; other poses change nothing, and poses stay away."""
    spec = spec_with("encoder", "croco")
    spec = replace(spec, encoder=replace(spec.encoder, intrinsics_token=True))
    assert [problem.field for problem in spec.problems(VIEWS)] == ["intrinsics"]
    spec = replace(spec, intrinsics="known")
    assert [*spec.problems(VIEWS)] == []
    model = spec.build(seed=0)
    known = cameras()
    moved = replace(known, world_to_camera=known.world_to_camera + torch.nan)
    zoomed = replace(known, intrinsics=known.intrinsics * torch.tensor([2.0, 2.0, 1.0])[:, None])
    means = [model(Views(views().images, each)).means for each in (known, moved, zoomed)]
    assert torch.equal(means[0], means[1]) and not torch.equal(means[0], means[2])
    assert torch.equal(model(Views(views().images, intrinsics=known.intrinsics)).means, means[0])
    with pytest.raises(ValueError, match="this model reads intrinsics"):
        model(Views(views().images))


@pytest.mark.parametrize("reads", ["images", "cameras"])
def test_what_is_known_must_be_read(reads: str) -> None:
    spec = spec_with("encoder", "conv")
    if reads == "cameras":
        spec = replace(spec, encoder=replace(spec.encoder, rays=True))
        assert [p.message for p in spec.problems(VIEWS)] == ["encoder conv reads cameras; set poses: known"]
    else:
        spec = replace(spec, intrinsics="known")
        assert [p.message for p in spec.problems(VIEWS)] == [
            "no part of this model reads intrinsics; use intrinsics: unknown"
        ]


def test_attention_within_the_view_stays_there() -> None:
    spec = spec_with("aggregator", "self_attention")
    for positions in ("learned", "rope", "none"):
        aggregator = replace(spec.aggregator, scope="view", positions=positions)
        model = replace(spec, aggregator=aggregator).build(seed=0)
        changed = views().images.clone()
        changed[:, 1] = 0
        before, after = model(views()).means, model(Views(changed)).means
        assert torch.equal(before[:, [0, 2]], after[:, [0, 2]]) and not torch.equal(before[:, 1], after[:, 1])


@pytest.mark.parametrize("positions", ["learned", "rope", "none"])
def test_positions_tell_patches_apart_or_not(positions: Literal["learned", "rope", "none"]) -> None:
    """Without positions exchanged patches give exchanged tokens."""
    spec = self_attention.Spec(blocks=2, heads=2, positions=positions, view_embedding="none", table_size=16)
    aggregator = spec.build(TokenSpec(16, 4))
    grid = torch.randn(1, 2, 4, 4, 16)
    straight = aggregator(Tokens(grid), None, (2,))[0].grid
    swapped = aggregator(Tokens(grid.flip(3)), None, (2,))[0].grid.flip(3)
    assert torch.allclose(straight, swapped, atol=1e-5) == (positions == "none")


@pytest.mark.parametrize("count", [1, 2, 6])
def test_other_numbers_of_views(count: int) -> None:
    """Where the aggregator allows it, a model takes other numbers of views than it was trained with."""
    images = torch.rand(1, count, 3, IMAGE, IMAGE)
    for name in ("alternating", "latents", "triplane_tokens"):
        assert spec_with("aggregator", name).build(0)(Views(images)) is not None
    paired = spec_with("aggregator", "cross_attention").build(0)
    if count == 1:
        with pytest.raises(ValueError, match="give at least two"):
            paired(Views(images))
    else:
        assert paired(Views(images)).means.shape[1] == count
    fixed = spec_with("aggregator", "self_attention")
    if count > 4:
        with pytest.raises(ValueError, match="view embeddings for 4 views, not for 6"):
            fixed.build(0)(Views(images))
    two = replace(fixed, inputs=2)
    assert [p.field for p in two.problems(3)] == ["inputs"]
    if count != 2:
        with pytest.raises(ValueError, match=f"takes 2 input views .model.inputs., not {count}"):
            two.build(0)(Views(images))


def test_without_a_reference_all_views_may_change_places() -> None:
    """π³: alternating attention with shared special tokens is equivariant under permutations of the views."""
    spec = spec_with("aggregator", "alternating")
    for variants in ("shared", "reference_source"):
        model = replace(spec, aggregator=replace(spec.aggregator, view_tokens=variants)).build(0)
        with torch.no_grad():
            torch.nn.init.normal_(model.aggregator.special_tokens)
            for block in model.aggregator.blocks:
                for scale in (block.within.scale1, block.within.scale2, block.across.scale1, block.across.scale2):
                    scale.gamma.fill_(1)
        images = views().images
        straight, swapped = model(Views(images)).means, model(Views(images[:, [2, 0, 1]])).means
        assert torch.allclose(straight[:, [2, 0, 1]], swapped, atol=1e-4) == (variants == "shared")


def test_an_output_must_fit_the_layout_of_the_tokens() -> None:
    spec = spec_with("aggregator", "triplane_tokens")
    problems = [*replace(spec, head=tiny("head", "linear"), output=tiny("output", "gaussians")).problems(VIEWS)]
    assert [problem.field for problem in problems] == ["head", "output"]
    assert "linear reads tokens of layout views or set, aggregator triplane_tokens gives planes" in problems[0].message
    latents = spec_with("aggregator", "latents")
    by_view = replace(latents, head=replace(latents.head, view_weights="reference_source"))
    assert [problem.field for problem in by_view.problems(VIEWS)] == ["head.view_weights"]


def test_the_confidence_of_descriptors_can_be_bounded() -> None:
    """Else that of memorized matches grows beyond float32, and its gradient drowns all others."""
    logits = torch.tensor([0.0, 3.0, 200.0]).reshape(1, 1, 1, 3, 1).requires_grad_()
    ones = torch.ones(1, 1, 1, 3, 3)
    raw = {"points": ones, "confidence": ones[..., :1], "descriptors": ones[..., :2], "descriptor_confidence": logits}
    output = pointmap.Spec(descriptors=2, descriptor_confidence_max=100).build()(Dense(raw), views(1))
    output.descriptor_confidence.sum().backward()
    assert torch.allclose(output.descriptor_confidence.flatten(), torch.tensor([1.0, math.exp(3), 100.0]))
    assert logits.grad is not None and torch.allclose(logits.grad.flatten(), torch.tensor([1.0, math.exp(3), 0.0]))
    assert [p.field for p in pointmap.Spec(descriptor_confidence_max=0).problems()] == ["descriptor_confidence_max"]
