"""Activations that are computed again in the backward pass instead of being kept: less memory, the same gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from bench.common.compat import attention_operators, is_dropout
from bench.config.schema import Recompute, TrainSpec
from models.ead import EAD
from models.layers import Attention
from models.tensors import Dense, Tokens, Views
from models.view_weights import HeadByView, views_of


def save_activations(model: EAD, train: TrainSpec) -> None:
    """Change, in place, what the parts keep for the backward pass; a part without blocks is one block.

    With `train.head_views` D takes its input views in groups, each of which is a block of its own.
    """
    heads = [model.head.reference, model.head.source] if isinstance(model.head, HeadByView) else [model.head]
    for name, part in model.parts().items():
        how: Recompute = getattr(train.recompute, name, "none")
        for block in model.blocks(name) or (heads if name == "head" else [part]):
            if how != "none":
                _recompute(block, how)
    for module in model.modules():
        if isinstance(module, Attention):
            module.one_product = train.fused_qkv
    if train.head_views:
        for head in heads:
            head.forward = partial(_in_groups, head.forward, train.head_views)


def _recompute(block: nn.Module, how: Recompute) -> None:
    """A generator's state is kept for blocks that draw random numbers alone: reading it stalls a device."""
    options: dict[str, Any] = {"preserve_rng_state": any(map(is_dropout, block.modules()))}
    if how == "selective":
        kept = attention_operators()  # little memory for the quadratic part of the arithmetic
        options["context_fn"] = partial(create_selective_checkpoint_contexts, kept)
    block.forward = partial(checkpoint, block.forward, use_reentrant=False, **options)


def _in_groups(forward: Callable[..., Dense], count: int, taps: Sequence[Tokens], views: Views) -> Dense:
    """So many views at a time; tokens that belong to no view stay together."""
    total = views.images.shape[1]
    if count >= total or taps[0].layout != "views":
        return forward(taps, views)
    slices = [slice(start, start + count) for start in range(0, total, count)]
    groups = [forward([views_of(tap, chosen) for tap in taps], views_of(views, chosen)).channels for chosen in slices]
    return Dense({name: torch.cat([group[name] for group in groups], dim=1) for name in groups[0]})
