"""Published checkpoints under their public keys ⇄ our parts, strict in both directions.

A layout knows which keys of a file are a part of ours and what they are called here; what a part should be called there
follows from the same table, so that every difference is reported in the names of the file. Names and shapes:
naver/croco, naver/dust3r, naver/mast3r, TencentARC/FreeSplatter.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from models.ead import EADSpec

State = Mapping[str, Tensor]
Names = tuple[tuple[str, str], ...]  # (public, ours), the first match wins both ways; {} is one word

ENCODER: Names = (
    ("patch_embed.proj.{}", "patchify.{}"),
    ("enc_blocks.{}.mlp.fc1.{}", "blocks.{}.mlp.0.{}"),
    ("enc_blocks.{}.mlp.fc2.{}", "blocks.{}.mlp.2.{}"),
    ("enc_blocks.{}.attn.{}.{}", "blocks.{}.attn.{}.{}"),
    ("enc_blocks.{}.norm{}.{}", "blocks.{}.norm{}.{}"),
    ("enc_norm.{}", "norm.{}"),
)
HEAD: Names = (
    ("act_postprocess.{}.{}.{}", "reassemble.{}.{}.{}"),
    *((f"scratch.layer{n}_rn.{{}}", f"project.{n - 1}.{{}}") for n in (1, 2, 3, 4)),
    *((f"scratch.refinenet{n}.resConfUnit1.{{}}.{{}}", f"fuse.{n - 1}.skip.{{}}.{{}}") for n in (1, 2, 3, 4)),
    *((f"scratch.refinenet{n}.resConfUnit2.{{}}.{{}}", f"fuse.{n - 1}.refine.{{}}.{{}}") for n in (1, 2, 3, 4)),
    *((f"scratch.refinenet{n}.out_conv.{{}}", f"fuse.{n - 1}.out.{{}}") for n in (1, 2, 3, 4)),
    ("head.0.{}", "conv1.{}"),
    ("head.2.{}", "conv2.{}"),
    ("head.4.{}", "out.{}"),
)
ALIASED_KEYS = tuple((f"scratch.layer{n}_rn.weight", f"scratch.layer_rn.{n - 1}.weight") for n in (1, 2, 3, 4))
MODEL: Names = (
    ("patchify.weight", "encoder.patchify.weight"),
    ("pos_embed", "aggregator.table"),
    ("{}_embed", "aggregator.{}_embed"),
    ("blocks.{}.self_attn.to_out.0.weight", "aggregator.blocks.{}.attn.proj.weight"),
    ("blocks.{}.self_attn.to_{}.weight", "aggregator.blocks.{}.attn.{}.weight"),
    ("blocks.{}.ff.{}.weight", "aggregator.blocks.{}.mlp.{}.weight"),
    ("blocks.{}.norm{}.weight", "aggregator.blocks.{}.norm{}.weight"),
    ("norm.weight", "aggregator.norm.weight"),
    ("unpatchify.{}", "head.linear.{}"),
)
FREESPLATTER_PREFIX = "transformer."
CHANNELS_2DGS = 22  # a pixel, of FreeSplatter's 2D Gaussians: two scales instead of three


class WeightsError(Exception):
    """A checkpoint that does not fit: the first offending key, and what was expected."""


@dataclass(frozen=True)
class Layout:
    """A kind of checkpoint and the part that it fills.

    `select`: the file's tensors that are the part, as the published file has them; `to_ours` and `to_public`: between
    those and the part's state dict. `adapts`: public keys that are loaded where their shapes are ours and otherwise left at
    their initial values, since they depend on what stands before or after the part.
    """

    name: str
    select: Callable[[State], dict[str, Tensor]]
    to_ours: Callable[[State], dict[str, Tensor]]
    to_public: Callable[[State], dict[str, Tensor]]
    adapts: str = "(?!)"


def load_layout(module: nn.Module, public: State, layout: Layout, source: str) -> list[str]:
    """Give a part a published checkpoint's tensors; the public keys that were left as they are here (`adapts`).

    Raises WeightsError naming the first key that is missing, of another shape or too much.
    """
    tensors, unmatched = validate_layout(module, public, layout, source)
    current = layout.to_public(module.state_dict())
    module.load_state_dict(layout.to_ours(tensors | {key: current[key] for key in unmatched}), strict=True)
    return unmatched


def validate_layout(
    module: nn.Module, public: State, layout: Layout, source: str
) -> tuple[dict[str, Tensor], list[str]]:
    """The part's tensors in the file, and the keys to leave; the module may be on the meta device.

    Raises WeightsError.
    """
    expected = layout.to_public(module.state_dict())
    try:
        tensors = layout.select(public)
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from error
    unmatched = []
    for key, tensor in expected.items():
        if key not in tensors:
            raise WeightsError(f"{source}: {key} is missing (this model has it as {_shape(tensor)})")
        if tensors[key].shape != tensor.shape:
            if not re.fullmatch(layout.adapts, key):
                raise WeightsError(f"{source}: {key} has shape {_shape(tensors[key])}, this model {_shape(tensor)}")
            unmatched.append(key)
    if extra := [key for key in tensors if key not in expected]:
        raise WeightsError(f"{source}: {extra[0]} {_shape(tensors[extra[0]])} belongs to no parameter of this model")
    return tensors, unmatched


def rename(state: State, names: Names, *, back: bool = False) -> dict[str, Tensor]:
    """Public names to ours, or `back`. Raises WeightsError for a key that the table does not know."""
    renamed = {}
    for key, value in state.items():
        pairs = ((ours, public) if back else (public, ours) for public, ours in names)
        new_name = next(
            (to.format(*match.groups()) for of, to in pairs if (match := _pattern(of).fullmatch(key))), None
        )
        if new_name is None:
            raise WeightsError(f"{key} is not known in this kind of checkpoint")
        renamed[new_name] = value
    return renamed


@cache
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace(r"\{\}", r"([^.]+)"))


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


# CroCo, DUSt3R, MASt3R: the encoder


def croco_encoder() -> Layout:
    """`encoder: croco` from a CroCo (with RoPE), DUSt3R or MASt3R checkpoint; decoders and heads are left out."""
    return Layout(
        name="CroCo's, DUSt3R's and MASt3R's encoder",
        select=lambda public: {k: v for k, v in public.items() if k.startswith(("patch_embed.", "enc_"))},
        to_ours=lambda public: rename(public, ENCODER),
        to_public=lambda ours: rename(ours, ENCODER, back=True),
    )


# DUSt3R, MASt3R: the DPT head


def dpt_head(prefix: str = "downstream_head1.dpt.") -> Layout:
    """`head: dpt` from DUSt3R's or MASt3R's first head (the reference view's).

    Its first maps read a decoder of width 768, its last one writes 3D points: those adapt, all else is strict.
    """
    return Layout(
        name="DUSt3R's and MASt3R's DPT head",
        select=lambda public: _stored_twice(public, prefix),
        to_ours=lambda public: rename(_first_names(public, prefix), HEAD),
        to_public=lambda ours: _both_names(rename(ours, HEAD, back=True), prefix),
        adapts=re.escape(prefix) + r"(act_postprocess\.\d\.0|head\.4)\.\w+",
    )


def _stored_twice(public: State, prefix: str) -> dict[str, Tensor]:
    """`scratch.layerN_rn` is one tensor under two names; a file may hold either or both, if they are equal."""
    tensors = {key: value for key, value in public.items() if key.startswith(prefix)}
    for one, other in ((prefix + one, prefix + other) for one, other in ALIASED_KEYS):
        if one in tensors and other in tensors and not _same(tensors[one], tensors[other]):
            raise WeightsError(f"{one} and {other} differ, but are one tensor in DUSt3R")
        if one in tensors or other in tensors:
            tensors[one] = tensors[other] = tensors[one] if one in tensors else tensors[other]
    return tensors


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and (one.is_meta or one.data_ptr() == other.data_ptr() or torch.equal(one, other))


def _first_names(public: State, prefix: str) -> dict[str, Tensor]:
    second = {prefix + other for _, other in ALIASED_KEYS}
    return {key.removeprefix(prefix): value for key, value in public.items() if key not in second}


def _both_names(public: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    both = public | {other: public[one] for one, other in ALIASED_KEYS if one in public}
    return {prefix + key: value for key, value in both.items()}


# FreeSplatter: the whole model


def freesplatter() -> Layout:
    """A whole EAD of conv, self_attention (reference_source) and linear from FreeSplatter's object or scene model."""
    return Layout("FreeSplatter", _freesplatter_select, _freesplatter_to_ours, _freesplatter_to_public)


def is_freesplatter(public: State) -> bool:
    """Whether a file's keys are FreeSplatter's, with or without its prefix."""
    return any(key.removeprefix(FREESPLATTER_PREFIX).startswith(("patchify.", "unpatchify.")) for key in public)


def freesplatter_differences(spec: EADSpec) -> list[str]:
    """What of a model FreeSplatter's weights cannot serve and shapes do not tell: "model.head is dpt, …"."""
    checks: list[tuple[str, object, object]] = [
        ("model.encoder", spec.encoder.name, "conv"),
        ("model.aggregator", spec.aggregator.name, "self_attention"),
        ("model.aggregator.view_embedding", getattr(spec.aggregator, "view_embedding", None), "reference_source"),
        ("model.head", spec.head.name, "linear"),
        ("model.output", spec.output.name, "gaussians"),
    ]
    return [f"{key} is {value}, FreeSplatter's is {expected}" for key, value, expected in checks if value != expected]


def _freesplatter_select(public: State) -> dict[str, Tensor]:
    prefix = "" if any(key.startswith(FREESPLATTER_PREFIX) for key in public) else FREESPLATTER_PREFIX
    tensors = {prefix + key: value for key, value in public.items()}
    patch, bias = (tensors.get(FREESPLATTER_PREFIX + key) for key in ("patchify.weight", "unpatchify.bias"))
    if patch is not None and bias is not None and bias.numel() == CHANNELS_2DGS * patch.shape[-1] ** 2:
        raise WeightsError(
            f"this is FreeSplatter's model of 2D Gaussians ({CHANNELS_2DGS} channels a pixel, two scales each), which "
            "this harness does not render: use freesplatter-object.safetensors or freesplatter-scene.safetensors"
        )
    return tensors


def _freesplatter_to_ours(public: State) -> dict[str, Tensor]:
    state = rename({key.removeprefix(FREESPLATTER_PREFIX): value for key, value in public.items()}, MODEL)
    embeddings = [state.pop(f"aggregator.{name}_embed").flatten(0, 1) for name in ("ref", "src")]
    table = state["aggregator.table"]
    side = math.isqrt(table.shape[1])
    return state | {
        "aggregator.view_embedding": torch.cat(embeddings),
        "aggregator.table": table.reshape(side, side, -1),
    }


def _freesplatter_to_public(ours: State) -> dict[str, Tensor]:
    """Raises WeightsError for a model that FreeSplatter's layout cannot hold."""
    state = dict(ours)
    if (embedding := state.pop("aggregator.view_embedding", None)) is None or len(embedding) != 2:
        raise WeightsError("FreeSplatter's layout needs model.aggregator.view_embedding: reference_source")
    state["aggregator.table"] = state["aggregator.table"].flatten(0, 1)[None]
    state |= {f"aggregator.{name}_embed": embedding[i].reshape(1, 1, -1) for i, name in enumerate(("ref", "src"))}
    return {FREESPLATTER_PREFIX + key: value for key, value in rename(state, MODEL, back=True).items()}


# What is known of which choice


LAYOUTS: Mapping[tuple[str, str], Callable[[], Layout]] = {
    ("encoder", "croco"): croco_encoder,
    ("head", "dpt"): dpt_head,
}
