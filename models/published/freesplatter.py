"""FreeSplatter, the whole model. Names and shapes: TencentARC/FreeSplatter."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.ead import EADSpec
from models.published.layout import Layout, Names, State, WeightsError, rename

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


def freesplatter() -> Layout:
    """A whole EAD of conv, self_attention (reference_source) and linear from FreeSplatter's object or scene model."""
    return Layout("FreeSplatter", _select, _to_ours, _to_public, fixes=_fixes)


def is_freesplatter(public: State) -> bool:
    """Whether a file's keys are FreeSplatter's, with or without its prefix."""
    return any(key.removeprefix(FREESPLATTER_PREFIX).startswith(("patchify.", "unpatchify.")) for key in public)


def _fixes(spec: EADSpec) -> dict[str, object]:
    return {
        "encoder": "conv",
        "aggregator": "self_attention",
        "aggregator.heads": max(1, spec.encoder.tokens().dim // 64),
        "aggregator.view_embedding": "reference_source",
        "aggregator.positions": "learned",
        "aggregator.scope": "all",
        "head": "linear",
        "head.order": "pixel_channel",
        "output": "gaussians",
    }


def _select(public: State) -> dict[str, Tensor]:
    prefix = "" if any(key.startswith(FREESPLATTER_PREFIX) for key in public) else FREESPLATTER_PREFIX
    tensors = {prefix + key: value for key, value in public.items()}
    patch, bias = (tensors.get(FREESPLATTER_PREFIX + key) for key in ("patchify.weight", "unpatchify.bias"))
    if patch is not None and bias is not None and bias.numel() == CHANNELS_2DGS * patch.shape[-1] ** 2:
        raise WeightsError(
            f"this is FreeSplatter's model of 2D Gaussians ({CHANNELS_2DGS} channels a pixel, two scales each), which "
            "this harness does not render: use freesplatter-object.safetensors or freesplatter-scene.safetensors"
        )
    return tensors


def _to_ours(public: State) -> dict[str, Tensor]:
    state = rename({key.removeprefix(FREESPLATTER_PREFIX): value for key, value in public.items()}, MODEL)
    embeddings = [state.pop(f"aggregator.{name}_embed").flatten(0, 1) for name in ("ref", "src")]
    table = state["aggregator.table"]
    side = math.isqrt(table.shape[1])
    return state | {
        "aggregator.view_embedding": torch.cat(embeddings),
        "aggregator.table": table.reshape(side, side, -1),
    }


def _to_public(ours: State) -> dict[str, Tensor]:
    """Raises WeightsError for a model that FreeSplatter's layout cannot hold."""
    state = dict(ours)
    if (embedding := state.pop("aggregator.view_embedding", None)) is None or len(embedding) != 2:
        raise WeightsError("FreeSplatter's layout needs model.aggregator.view_embedding: reference_source")
    state["aggregator.table"] = state["aggregator.table"].flatten(0, 1)[None]
    state |= {f"aggregator.{name}_embed": embedding[i].reshape(1, 1, -1) for i, name in enumerate(("ref", "src"))}
    return {FREESPLATTER_PREFIX + key: value for key, value in rename(state, MODEL, back=True).items()}
