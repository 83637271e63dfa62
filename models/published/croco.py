"""CroCo v2, DUSt3R, MASt3R, Splatt3R and NoPoSplat: one encoder and decoder, and heads that grew from DUSt3R's.

Names and shapes: naver/croco, naver/dust3r, naver/mast3r, btsmart/splatt3r, cvg/NoPoSplat.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from models.ead import EADSpec
from models.published.layout import Layout, Names, Section, State, below, of_sections

ENCODER: Names = (
    ("patch_embed.proj.{}", "patchify.{}"),
    ("enc_blocks.{}.mlp.fc1.{}", "blocks.{}.mlp.0.{}"),
    ("enc_blocks.{}.mlp.fc2.{}", "blocks.{}.mlp.2.{}"),
    ("enc_blocks.{}.attn.{}.{}", "blocks.{}.attn.{}.{}"),
    ("enc_blocks.{}.norm{}.{}", "blocks.{}.norm{}.{}"),
    ("enc_norm.{}", "norm.{}"),
    ("intrinsic_encoder.{}", "intrinsics.{}"),
)
ENCODER_STARTS = ("patch_embed.", "enc_", "intrinsic_encoder.")


def _decoder_blocks(public: str, ours: str) -> Names:
    return (
        (f"{public}.{{}}.norm_y.{{}}", f"{ours}.{{}}.norm_memory.{{}}"),
        (f"{public}.{{}}.norm{{}}.{{}}", f"{ours}.{{}}.norm{{}}.{{}}"),
        (f"{public}.{{}}.attn.{{}}.{{}}", f"{ours}.{{}}.attn.{{}}.{{}}"),
        *((f"{public}.{{}}.cross_attn.proj{x}.{{}}", f"{ours}.{{}}.cross.{x}.{{}}") for x in "qkv"),
        (f"{public}.{{}}.cross_attn.proj.{{}}", f"{ours}.{{}}.cross.proj.{{}}"),
        (f"{public}.{{}}.mlp.fc1.{{}}", f"{ours}.{{}}.mlp.0.{{}}"),
        (f"{public}.{{}}.mlp.fc2.{{}}", f"{ours}.{{}}.mlp.2.{{}}"),
    )


DECODER: Names = (
    ("mask_token", "mask_token"),
    ("decoder_embed.{}", "embed.{}"),
    *_decoder_blocks("dec_blocks", "blocks"),
    *_decoder_blocks("dec_blocks2", "source_blocks"),
    ("dec_norm.{}", "norm.{}"),
)
DECODER_STARTS = ("mask_token", "decoder_embed.", "dec_")
TRUNK: Names = (
    ("act_postprocess.{}.{}.{}", "reassemble.{}.{}.{}"),
    *((f"scratch.layer{n}_rn.{{}}", f"project.{n - 1}.{{}}") for n in (1, 2, 3, 4)),
    *((f"scratch.refinenet{n}.resConfUnit1.{{}}.{{}}", f"fuse.{n - 1}.skip.{{}}.{{}}") for n in (1, 2, 3, 4)),
    *((f"scratch.refinenet{n}.resConfUnit2.{{}}.{{}}", f"fuse.{n - 1}.refine.{{}}.{{}}") for n in (1, 2, 3, 4)),
    *((f"scratch.refinenet{n}.out_conv.{{}}", f"fuse.{n - 1}.out.{{}}") for n in (1, 2, 3, 4)),
)
HEAD: Names = (*TRUNK, ("head.0.{}", "conv1.{}"), ("head.2.{}", "conv2.{}"), ("head.4.{}", "out.{}"))
IMAGE_HEAD: Names = (*TRUNK, ("head.0.{}", "conv.{}"), ("head.4.{}", "out.{}"), ("input_merger.0.{}", "image.{}"))
SAME: Names = tuple((".".join(["{}"] * words),) * 2 for words in range(1, 6))
ALIASED_KEYS = tuple((f"scratch.layer{n}_rn.weight", f"scratch.layer_rn.{n - 1}.weight") for n in (1, 2, 3, 4))
BY_VIEW = ((1, "reference."), (2, "source."))  # the number in public keys, and our head for those views


# Parts


def croco_encoder() -> Layout:
    """`encoder: croco` from a CroCo (with RoPE), DUSt3R or MASt3R checkpoint; decoders and heads are left out."""
    layout = of_sections("CroCo's, DUSt3R's and MASt3R's encoder", Section("", "", ENCODER, ENCODER_STARTS))
    return replace(layout, added=r"intrinsic_encoder\.\w+")


def croco_decoder() -> Layout:
    """`aggregator: cross_attention` from a CroCo, DUSt3R or MASt3R checkpoint.

    CroCo's one decoder serves all views or, as DUSt3R copies it, the first and the other views.
    """
    layout = of_sections("CroCo's, DUSt3R's and MASt3R's decoder", Section("", "", DECODER, DECODER_STARTS))

    def select(public: State) -> dict[str, Tensor]:
        tensors = layout.select(public)
        if not any(key.startswith("dec_blocks2.") for key in tensors):
            first = {key: value for key, value in tensors.items() if key.startswith("dec_blocks.")}
            tensors |= {key.replace("dec_blocks.", "dec_blocks2."): value for key, value in first.items()}
        return tensors

    return replace(layout, select=select, optional=r"dec_blocks2\..*")


def dpt_head(prefix: str = "downstream_head1.dpt.") -> Layout:
    """`head: dpt` from DUSt3R's or MASt3R's heads: the reference view's, or both for `view_weights: reference_source`.

    Its first maps read a decoder of width 768, its last one writes 3D points: those adapt, all else is strict.
    """
    second = prefix.replace("head1", "head2")
    shared = (Section(prefix, "", HEAD, stored_twice=ALIASED_KEYS),)
    by_view = tuple(
        Section(public, ours, HEAD, stored_twice=ALIASED_KEYS)
        for public, ours in ((prefix, "reference."), (second, "source."))
    )
    name = "DUSt3R's and MASt3R's DPT head"

    def chosen(two: bool) -> Layout:
        return of_sections(name, *(by_view if two else shared))

    return Layout(
        name=name,
        select=lambda public: chosen(second != prefix).select(public),
        to_ours=lambda public: chosen(second != prefix and any(key.startswith(second) for key in public)).to_ours(
            public
        ),
        to_public=lambda ours: chosen(any(key.startswith("reference.") for key in ours)).to_public(ours),
        adapts=rf"({re.escape(prefix)}|{re.escape(second)})(act_postprocess\.\d\.0|head\.4)\.\w+",
        optional=re.escape(second) + ".*" if second != prefix else "(?!)",
    )


def grouped_head() -> Layout:
    """`head: dpt_groups` from MASt3R's heads, as Splatt3R and NoPoSplat start from them: of one view or by view.

    Points and descriptors as far as the model has them; the DPT of all other channels is new. NoPoSplat has points
    without confidence: of the last layer it takes the first three channels (its src/misc/weight_modify.py).
    """
    sections = {
        two: tuple(
            section
            for number, view in (BY_VIEW if two else ((1, ""),))
            for section in (
                Section(f"downstream_head{number}.dpt.", f"{view}parts.points.", HEAD, stored_twice=ALIASED_KEYS),
                Section(f"downstream_head{number}.head_local_features.", f"{view}parts.descriptors.", SAME),
                Section(f"rest{number}.", f"{view}parts.rest.", SAME),
            )
        )
        for two in (True, False)
    }
    layouts = {two: of_sections("MASt3R's heads", *sections[two]) for two in sections}
    return Layout(
        name="MASt3R's heads",
        select=layouts[True].select,
        to_ours=lambda public: layouts[any(key.startswith("downstream_head2.") for key in public)].to_ours(public),
        to_public=lambda ours: layouts[any(key.startswith("reference.") for key in ours)].to_public(ours),
        adapts=r"downstream_head\d\.dpt\.(act_postprocess\.\d\.0|head\.4)\.\w+",
        optional=r"downstream_head2\..*|downstream_head1\.head_local_features\..*",
        added=r"rest\d\..*",
        cut=r"downstream_head\d\.dpt\.head\.4\.\w+",
    )


# Whole models


def _sections(*heads: Section, backbone: str = "") -> tuple[Section, ...]:
    return (
        Section(backbone, "encoder.", ENCODER, ENCODER_STARTS),
        Section(backbone, "aggregator.", DECODER, DECODER_STARTS),
        *heads,
    )


def _heads(public: str, ours: str, names: Names) -> list[Section]:
    """Of both views; `public` holds {} for the view's number, which NoPoSplat leaves out for the first."""
    numbers: Sequence[str] = ("", "2") if public.startswith("gaussian_param_head") else ("1", "2")
    twice = ALIASED_KEYS if names in (HEAD, IMAGE_HEAD) else ()
    return [
        Section(public.format(number), f"head.{view}{ours}", names, stored_twice=twice)
        for number, (_, view) in zip(numbers, BY_VIEW, strict=True)
    ]


def _backbone(spec: EADSpec, view_weights: str = "reference_source", memory: str = "updated") -> dict[str, object]:
    """What E's and A's shapes do not show."""
    fixed: dict[str, object] = {"encoder": "croco", "aggregator": "cross_attention"}
    for part in ("encoder", "aggregator"):
        weights_fix = getattr(getattr(spec, part), "weights_fix", {})
        fixed |= {f"{part}.{name}": value for name, value in weights_fix.items()}
    return fixed | {"aggregator.view_weights": view_weights, "aggregator.memory": memory}


def _dpt(spec: EADSpec, name: str) -> dict[str, object]:
    """DUSt3R's DPT reads E's tokens and the decoder's after a half, three quarters and all of its blocks."""
    n = spec.aggregator.blocks
    return {"head": name, "head.view_weights": "reference_source", "head.taps": (0, n // 2, n * 3 // 4, n)}


def croco() -> Layout:
    """croco, cross_attention (shared weights), linear, pixels."""
    layout = of_sections("CroCo", *_sections(Section("prediction_head.", "head.linear.", SAME)))
    head = {"head": "linear", "head.order": "pixel_channel", "head.view_weights": "shared", "output": "pixels"}
    return replace(layout, fixes=lambda spec: _backbone(spec, "shared", "encoder") | head)


def dust3r_linear() -> Layout:
    """croco, cross_attention, linear (channel_pixel, by view), pointmap."""
    layout = of_sections("DUSt3R-linear", *_sections(*_heads("downstream_head{}.proj.", "linear.", SAME)))
    head = {"head": "linear", "head.order": "channel_pixel", "output": "pointmap"}
    return replace(layout, fixes=lambda spec: _backbone(spec) | head)


def dust3r_dpt() -> Layout:
    """croco, cross_attention, dpt (by view), pointmap."""
    layout = of_sections("DUSt3R-DPT", *_sections(*_heads("downstream_head{}.dpt.", "", HEAD)))
    return replace(layout, fixes=lambda spec: _backbone(spec) | _dpt(spec, "dpt") | {"output": "pointmap"})


def mast3r() -> Layout:
    """croco, cross_attention, dpt_groups (by view), pointmap with descriptors."""
    layout = of_sections("MASt3R", *_sections(*_mast3r_heads()))
    return replace(layout, fixes=lambda spec: _backbone(spec) | _dpt(spec, "dpt_groups") | {"output": "pointmap"})


def splatt3r() -> Layout:
    """croco, cross_attention, dpt_groups (by view), splatt3r."""
    gaussians = _heads("downstream_head{}.gaussian_dpt.dpt.", "parts.rest.", HEAD)
    layout = below(of_sections("Splatt3R", *_sections(*_mast3r_heads(), *gaussians)), "encoder.")
    output = {"output": "splatt3r", "output.scale_bias": 0.0, "output.opacity_bias": 0.0, "output.color_residual": True}
    return replace(layout, fixes=lambda spec: _backbone(spec) | _dpt(spec, "dpt_groups") | output)


def noposplat() -> Layout:
    """croco (with or without intrinsics), cross_attention, dpt_groups (dpt_with_image, by view), noposplat."""
    points = _heads("downstream_head{}.dpt.", "parts.points.", HEAD)
    gaussians = _heads("gaussian_param_head{}.dpt.", "parts.rest.", IMAGE_HEAD)
    layout = below(of_sections("NoPoSplat", *_sections(*points, *gaussians, backbone="backbone.")), "encoder.")
    output = {"output": "noposplat", "output.scale_factor": 0.001, "output.scale_max": 0.3}
    return replace(layout, fixes=lambda spec: _backbone(spec) | _dpt(spec, "dpt_groups") | output)


def _mast3r_heads() -> list[Section]:
    return [
        *_heads("downstream_head{}.dpt.", "parts.points.", HEAD),
        *_heads("downstream_head{}.head_local_features.", "parts.descriptors.", SAME),
    ]
