"""Every base at published size, and every published checkpoint: strictly into its base, or refused in one sentence."""

from __future__ import annotations

import json

import pytest
import torch
from support.base_models import BASES, base_model
from support.golden_cases import layouts, tensors
from support.paths import GOLDEN

from bench import outputs
from models import published
from models.ead import count_parameters
from models.published import WeightsError
from models.tensors import Cameras, Views

SIZES = json.loads((GOLDEN / "published_sizes.json").read_text())


def test_every_base_has_its_size_on_record() -> None:
    assert SIZES.keys() == {path.stem for path in BASES.glob("*.yaml")}


@pytest.mark.parametrize("name", SIZES)
def test_parameters_at_published_size(name: str) -> None:
    with torch.device("meta"):
        count = count_parameters(base_model(name).build())["total"]
    assert count == SIZES[name]["parameters"] and SIZES[name]["published"] in (None, count)


def test_an_alternating_block_has_its_published_size() -> None:
    """12,598,528 at width 1024, as VGGT's; a pair is one of frame and one of global attention."""
    with torch.device("meta"):
        pairs = base_model("vggt").build().aggregator.blocks
    assert {sum(p.numel() for p in pair.parameters()) for pair in pairs} == {2 * 12_598_528}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("scale", ["small", "tiny"])
def test_other_scales_are_valid(name: str, scale: str) -> None:
    spec = base_model(name, scale)
    assert [*spec.problems(spec.inputs or 4)] == []


@pytest.mark.parametrize("name", SIZES)
def test_unknown_cameras_reach_no_base(name: str) -> None:
    """Cameras of NaN change no output, but under `poses: known`; under `intrinsics: known` NaN poses change none."""
    spec = base_model(name, "tiny")
    count = spec.inputs or 3
    intrinsics = torch.tensor([[40.0, 0, 16], [0, 40.0, 16], [0, 0, 1]]).expand(1, count, 3, 3)
    nan, known = torch.full((1, count, 4, 4), torch.nan), spec.intrinsics == "known"
    cameras = Cameras(nan, intrinsics if known else torch.full_like(intrinsics, torch.nan), 32, 32)
    images = torch.rand(1, count, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = spec.build(0).eval()
    with torch.no_grad():
        output = [*outputs.tensors(model(Views(images, cameras)))]
        if spec.poses == "known":
            assert any(value.isnan().any() for value in output)
            return
        without = [*outputs.tensors(model(Views(images, intrinsics=intrinsics if known else None)))]
    assert all(torch.equal(one, other) for one, other in zip(output, without, strict=True))


VITB = ["model.encoder.width=768", "model.encoder.blocks=12", "model.encoder.heads=12"]
LINEAR = ["model.head={name: linear, order: channel_pixel, view_weights: reference_source}"]
SMALL_DECODER = ["model.aggregator.width=512", "model.aggregator.blocks=8", "model.aggregator.heads=16"]
WITHOUT_INTRINSICS = ["model.encoder.intrinsics_token=false", "model.intrinsics=unknown"]
WHOLE = {  # published file → base, what its size changes there
    "croco_v2_vitl_base_decoder": ("croco", []),
    "croco_v2_vitb_base_decoder": ("croco", VITB),
    "croco_v2_vitb_small_decoder": ("croco", VITB + SMALL_DECODER),
    "dust3r_dpt_512": ("dust3r", []),
    "dust3r_linear_512": ("dust3r", LINEAR),
    "dust3r_linear_224": ("dust3r", LINEAR),
    "mast3r": ("mast3r", []),
    "splatt3r": ("splatt3r", []),
    "noposplat": ("noposplat", []),
    "noposplat_no_intrinsics": ("noposplat", WITHOUT_INTRINSICS),
    "freesplatter_object": ("freesplatter", []),
    "freesplatter_scene": ("freesplatter", []),
}
DINO = {  # published file → fields of `encoder: dino`
    "dino_vits16": {"width": 384, "heads": 6},
    "dino_vitb16": {},
    "dino_vitb8": {"patch": 8},
    **{
        f"dinov2_vit{size}14{suffix}": fields
        | {"version": "dinov2", "patch": 14, "image_patch": 16, "table_size": 518, "registers": 4 if suffix else 0}
        for size, fields in {
            "s": {"width": 384, "heads": 6},
            "b": {},
            "l": {"width": 1024, "heads": 16, "blocks": 24},
        }.items()
        for suffix in ("", "_reg")
    },
}
REFUSED = {"freesplatter_object_2dgs": "this is FreeSplatter's model of 2D Gaussians"}


def test_every_published_layout_is_covered() -> None:
    assert layouts().keys() == WHOLE.keys() | DINO.keys() | REFUSED.keys()


@pytest.mark.parametrize("name", WHOLE)
def test_a_published_model_loads_strictly_into_its_base(name: str) -> None:
    base, changes = WHOLE[name]
    spec = base_model(base, changes=changes)
    with torch.device("meta"):
        model = spec.build()
    public = tensors(name)
    layout = published.whole_model(public)
    assert layout is not None
    state, initial = published.validate_layout(model, public, layout, name)
    assert initial == [] and state.keys() == public.keys()
    ours = layout.to_ours(state)
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in model.state_dict().items()
    }
    assert sum(value.numel() for value in ours.values()) == layouts()[name]["parameters"]
    key = next(iter(public))
    with pytest.raises(WeightsError, match=f"{name}: {key} is missing"):
        published.validate_layout(model, {k: v for k, v in public.items() if k != key}, layout, name)


@pytest.mark.parametrize("name", DINO)
def test_a_published_dino_loads_strictly_into_the_encoder(name: str) -> None:
    changes = [f"model.encoder.{field}={value}" for field, value in DINO[name].items()]
    spec = base_model("lrm", changes=changes).encoder
    with torch.device("meta"):
        encoder = spec.build()
    public = tensors(name)
    state, initial = published.validate_layout(encoder, public, published.dino_encoder(), name)
    assert initial == [] and state.keys() == public.keys()
    assert sum(p.numel() for p in encoder.parameters()) == layouts()[name]["parameters"]


@pytest.mark.parametrize("name", REFUSED)
def test_others_are_refused_in_one_sentence(name: str) -> None:
    with torch.device("meta"):
        model = base_model("freesplatter").build()
    layout = published.whole_model(tensors(name))
    assert layout is not None
    with pytest.raises(WeightsError, match=REFUSED[name]):
        published.validate_layout(model, tensors(name), layout, name)


def test_a_decoder_serves_mast3rs_and_crocos_weights() -> None:
    """CroCo has one decoder, which both views' blocks start from, as in DUSt3R."""
    with torch.device("meta"):
        aggregator = base_model("mast3r").build().aggregator
    for name in ("mast3r", "croco_v2_vitl_base_decoder"):
        state, initial = published.validate_layout(aggregator, tensors(name), published.croco_decoder(), name)
        assert initial == [] and published.croco_decoder().to_ours(state).keys() == aggregator.state_dict().keys()


def test_both_dpt_heads_or_the_first() -> None:
    with torch.device("meta"):
        both, first = (
            base_model("dust3r", changes=[f"model.head.view_weights={weights}"]).build().head
            for weights in ("reference_source", "shared")
        )
    counts = [len(published.validate_layout(h, tensors("mast3r"), published.dpt_head(), "f")[0]) for h in (both, first)]
    assert counts[0] == 2 * counts[1]


@pytest.mark.parametrize("base", ["mast3r", "splatt3r", "noposplat"])
@pytest.mark.parametrize("weights", ["reference_source", "shared"])
def test_grouped_heads_start_from_mast3rs(base: str, weights: str) -> None:
    """All of MASt3R's own, of the last layer the channels that there are (NoPoSplat's points have no confidence); what
    the others add is new."""
    with torch.device("meta"):
        head = base_model(base, changes=[f"model.head.view_weights={weights}"]).build().head
    state, initial = published.validate_layout(head, tensors("mast3r"), published.grouped_head(), "mast3r")
    ours = published.grouped_head().to_ours(state)
    remaining = head.state_dict().keys() - ours.keys()
    assert len(initial) == len(remaining)
    assert all("parts.rest." in key for key in remaining)
    assert any("parts.rest." in key for key in remaining) == (base != "mast3r")
    assert any("parts.descriptors." in key for key in ours) == (base != "noposplat")


def test_a_pretrained_cnn_leaves_only_what_is_new() -> None:
    from models.encoders import cnn

    for patch, convolutions in ((4, 7), (8, 10), (16, 13)):
        encoder = cnn.Spec(patch=patch, width=32).build()
        public = {f"features.{n}.{x}": torch.zeros(()) for n in range(29) for x in ("weight", "bias")}
        public |= {k: torch.ones_like(v) for k, v in cnn.Spec(width=8).build().state_dict().items() if "features" in k}
        public = {key: value for key, value in public.items() if value.ndim}
        initial = published.load_layout(encoder, public, published.vgg16_encoder(), "vgg16")
        assert sorted(initial) == ["norm.bias", "norm.weight", "project.bias", "project.weight"]
        loaded = [
            key for key, value in encoder.state_dict().items() if key.startswith("features") and (value == 1).all()
        ]
        assert len(loaded) == 2 * convolutions
