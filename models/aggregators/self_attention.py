"""A as self-attention over the tokens of all views (FreeSplatter, GS-LRM, the proposed models; §2.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from models.layers import Block, initialise
from models.parts import AggregatorSpec, Problem
from models.tensors import Tokens, TokenSpec


@dataclass(frozen=True)
class Spec(AggregatorSpec):
    """`table_size` is the image side in pixels at which the learned position table has one entry a patch."""

    blocks: int = 24
    heads: int = 16
    view_embedding: Literal["reference_source", "per_view"] = "reference_source"
    views: int = 4  # of per_view: how many embeddings there are
    table_size: int = 512

    sizes = {
        "tiny": {"blocks": 2, "heads": 6, "view_embedding": "per_view", "table_size": 32},
        "small": {"blocks": 12, "heads": 12, "table_size": 128},
    }

    def problems(self, tokens: TokenSpec, inputs: int) -> Iterator[Problem]:
        if tokens.dim % self.heads:
            yield Problem(
                "heads",
                f"the encoder's width {tokens.dim} is not a multiple of heads {self.heads}; choose one that divides it",
            )
        if self.table_size % tokens.patch:
            yield Problem("table_size", f"{self.table_size} px is not a multiple of the patch {tokens.patch}")
        if self.view_embedding == "per_view" and inputs > self.views:
            yield Problem(
                "views", f"per_view embeddings for {self.views} views, but {inputs} inputs; set views: {inputs}"
            )

    def levels(self, tokens: TokenSpec) -> list[TokenSpec]:
        return [tokens] * (self.blocks + 1)

    def build(self, tokens: TokenSpec) -> SelfAttention:
        return SelfAttention(self, tokens)


class SelfAttention(nn.Module):
    """FreeSplatter's transformer: position table and view embedding added, pre-norm blocks without biases."""

    def __init__(self, spec: Spec, tokens: TokenSpec) -> None:
        super().__init__()
        self.spec = spec
        side = spec.table_size // tokens.patch
        self.table = nn.Parameter(torch.empty(side, side, tokens.dim))
        count = 2 if spec.view_embedding == "reference_source" else spec.views
        self.view_embedding = nn.Parameter(torch.empty(count, tokens.dim))
        self.layers = nn.ModuleList(
            Block(tokens.dim, spec.heads, bias=False, fused=False, eps=1e-5) for _ in range(spec.blocks)
        )
        self.norm = nn.LayerNorm(tokens.dim, eps=1e-5, bias=False)
        initialise(self)
        nn.init.trunc_normal_(self.table, std=0.02)
        nn.init.trunc_normal_(self.view_embedding, std=0.02)

    def forward(self, tokens: Tokens, taps: Sequence[int]) -> list[Tokens]:
        """The tokens at each of `taps`, in that order; only those are kept. The last level is normalised."""
        views, rows, cols = tokens.grid.shape[1:4]
        kept = {0: tokens.grid}
        x = tokens.grid + self.positions(rows, cols) + self.embeddings(views)[:, None, None]
        x = rearrange(x, "b v r c d -> b (v r c) d")
        for level, layer in enumerate(self.layers, start=1):
            x = layer(x)
            if level in taps or level == len(self.layers):
                out = self.norm(x) if level == len(self.layers) else x
                kept[level] = rearrange(out, "b (v r c) d -> b v r c d", v=views, r=rows)
        return [Tokens(grid=kept[tap]) for tap in taps]

    def positions(self, rows: int, cols: int) -> Float[Tensor, "rows cols dim"]:
        """The table at another grid: bicubic, by DINO's scale factor (n + 0.1) / side.

        FreeSplatter's public code exchanges rows and columns of non-square images; weights trained on square ones do
        not depend on it, and here rows stay rows.
        """
        side = self.table.shape[0]
        if rows == cols == side:
            return self.table
        table = rearrange(self.table, "r c d -> 1 d r c").float()
        scale = ((rows + 0.1) / side, (cols + 0.1) / side)
        table = F.interpolate(table, scale_factor=scale, mode="bicubic", recompute_scale_factor=False)
        return rearrange(table, "1 d r c -> r c d")

    def embeddings(self, views: int) -> Float[Tensor, "view dim"]:
        """One embedding a view, or the first for view 0 (reference) and the second for all others (source)."""
        if self.spec.view_embedding == "per_view":
            return self.view_embedding[:views]
        return torch.cat([self.view_embedding[:1], self.view_embedding[1:].expand(views - 1, -1)])

    def blocks(self) -> list[nn.Module]:
        return list(self.layers)
