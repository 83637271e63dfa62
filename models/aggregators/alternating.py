"""A as attention within each view and over all views in turn (VGGT, π³).

Source: facebookresearch/vggt vggt/models/aggregator.py, vggt/layers/block.py; yyfz/Pi3 pi3/models/pi3.py. Compared once
on random weights with three pairs of blocks in float32: with VGGT's `Aggregator` max difference 3.5e-6 of values up to
11.9; with π³'s `BlockRope` in the order of its `decode`, LayerNorm's eps as VGGT's, 3.4e-6 of values up to 10.6.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from models.layers import Block, initialize, positions, rope_angles
from models.parts import AggregatorSpec, Problem, ViewWeights, at_least_one
from models.tensors import Cameras, Tokens, TokenSpec


@dataclass(frozen=True)
class Spec(AggregatorSpec):
    """`blocks` counts pairs: a block within the view, then one over all views.

    `taps`: a level is both blocks' tokens side by side, twice the width (VGGT), or the second's alone. Level 0 is E's
    tokens. `special_tokens`: a view's camera and register tokens (5: VGGT has 1 + 4, π³ 5), in one variant for the
    first view and one for the others (VGGT) or shared by all (π³, which has no reference view). E's own extra tokens
    are left out, as by both.
    """

    blocks: int = 24
    heads: int = 16
    taps: Literal["concatenated", "plain"] = "concatenated"
    special_tokens: int = 5
    view_tokens: ViewWeights = "reference_source"
    rope_base: float = 100.0
    layer_scale: float = 0.01

    sizes = {
        "tiny": {"blocks": 1, "heads": 6},
        "small": {"blocks": 6, "heads": 6},
    }

    def problems(self, tokens: TokenSpec, inputs: int) -> Iterator[Problem]:
        if wrong := at_least_one(self, "blocks", "heads"):
            yield from wrong
            return
        if tokens.dim % self.heads or tokens.dim // self.heads % 4:
            yield Problem(
                "heads",
                f"RoPE2D needs a head width divisible by 4, the encoder's width {tokens.dim} and heads {self.heads} "
                f"give {tokens.dim / self.heads:g}; choose other heads",
            )
        if self.special_tokens < 0:
            yield Problem("special_tokens", f"{self.special_tokens} is too small: 0 for none")

    def levels(self, tokens: TokenSpec) -> list[TokenSpec]:
        dim = tokens.dim * (2 if self.taps == "concatenated" else 1)
        return [tokens, *[TokenSpec(dim, tokens.patch, self.special_tokens)] * self.blocks]

    def build(self, tokens: TokenSpec) -> Alternating:
        return Alternating(self, tokens)


class BlockPair(nn.Module):
    def __init__(self, dim: int, heads: int, layer_scale: float) -> None:
        super().__init__()
        self.within, self.across = (
            Block(dim, heads, bias=True, fused=True, eps=1e-5, qk_norm=True, layer_scale=layer_scale) for _ in range(2)
        )

    def forward(
        self, x: Float[Tensor, "batch view token dim"], rope: tuple[Tensor, Tensor], joint_rope: tuple[Tensor, Tensor]
    ) -> tuple[Float[Tensor, "batch view token dim"], Float[Tensor, "batch view token dim"]]:
        """The tokens after attention within the views, and after attention over all of them."""
        batch, views = x.shape[:2]
        within = self.within(x.flatten(0, 1), rope).unflatten(0, (batch, views))
        across = self.across(within.flatten(1, 2), joint_rope).unflatten(1, (views, -1))
        return within, across


class Alternating(nn.Module):
    def __init__(self, spec: Spec, tokens: TokenSpec) -> None:
        super().__init__()
        self.spec = spec
        variants = 2 if spec.view_tokens == "reference_source" else 1
        if spec.special_tokens:
            self.special_tokens = nn.Parameter(torch.empty(variants, spec.special_tokens, tokens.dim))
        self.blocks = nn.ModuleList(BlockPair(tokens.dim, spec.heads, spec.layer_scale) for _ in range(spec.blocks))
        initialize(self)
        if spec.special_tokens:
            nn.init.normal_(self.special_tokens, std=1e-6)

    def forward(self, tokens: Tokens, cameras: Cameras | None, taps: Sequence[int]) -> list[Tokens]:
        """The tokens at each of `taps`, in that order; only those are stored."""
        batch, views, rows, cols, dim = tokens.grid.shape
        extra = self.spec.special_tokens
        x = tokens.grid.flatten(2, 3)
        if extra:
            x = torch.cat([self.special_of(views).expand(batch, -1, -1, -1), x], dim=2)
        with torch.autocast(x.device.type, enabled=False):  # special tokens at position 0, patches from 1
            where = F.pad(positions(rows, cols, x.device) + (1 if extra else 0), (0, 0, extra, 0))
            rope = rope_angles(where, dim // self.spec.heads, self.spec.rope_base)
            joint_rope = (rope[0].repeat(views, 1), rope[1].repeat(views, 1))
        levels = {0: tokens}
        for level, pair in enumerate(self.blocks, start=1):
            within, x = pair(x, rope, joint_rope)
            if level in taps:
                tap = torch.cat([within, x], dim=-1) if self.spec.taps == "concatenated" else x
                grid = rearrange(tap[:, :, extra:], "b v (r c) d -> b v r c d", r=rows)
                levels[level] = Tokens(grid, tap[:, :, :extra] if extra else None)
        return [levels[tap] for tap in taps]

    def special_of(self, views: int) -> Float[Tensor, "view token dim"]:
        """The first variant for the first view, the last for the others."""
        return torch.cat([self.special_tokens[:1], self.special_tokens[-1:].expand(views - 1, -1, -1)])
