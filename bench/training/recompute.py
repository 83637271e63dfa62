"""Activations that are computed again in the backward pass instead of being kept: less memory, the same gradients."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from bench.config.schema import RecomputeSpec
from models.ead import EAD


def recompute_blocks(model: EAD, recompute: RecomputeSpec) -> None:
    """Each block of the parts that `recompute` names keeps its input alone; a part without blocks is one block."""
    for name, part in model.parts().items():
        if getattr(recompute, name, "none") == "block":
            for block in model.blocks(name) or [part]:
                _recompute(block)


def _recompute(block: nn.Module) -> None:
    """No block draws random numbers, so that no generator's state needs to be kept."""
    forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
    block.forward = forward
