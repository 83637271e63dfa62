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

from models.layers import Block, initialize
from models.parts import AggregatorSpec, Problem, at_least_one
from models.tensors import Cameras, Tokens, TokenSpec


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
        if wrong := at_least_one(self, "blocks", "heads", "views", "table_size"):
            yield from wrong
            return
        if tokens.dim % self.heads:
            yield Problem(
                "heads",
                f"the encoder's width {tokens.dim} is not a multiple of heads {self.heads}; choose one that divides it",
            )
        if self.table_size % tokens.patch:
            yield Problem(
                "table_size", f"{self.table_size} px is not a multiple of the patch {tokens.patch}; choose one that is"
            )
        if self.view_embedding == "per_view" and inputs > self.views:
            yield Problem(
                "views", f"per_view embeddings for {self.views} views, but {inputs} inputs; set views: {inputs}"
            )

    def levels(self, tokens: TokenSpec) -> list[TokenSpec]:
        return [tokens] * (self.blocks + 1)

    def build(self, tokens: TokenSpec) -> SelfAttention:
        return SelfAttention(self, tokens)


class SelfAttention(nn.Module):
    """FreeSplatter's transformer: position table and view embedding added, pre-norm blocks without biases.

    Class and register tokens join the attention with their view's embedding alone.
    """

    def __init__(self, spec: Spec, tokens: TokenSpec) -> None:
        super().__init__()
        self.spec = spec
        side = spec.table_size // tokens.patch
        self.table = nn.Parameter(torch.empty(side, side, tokens.dim))
        count = 2 if spec.view_embedding == "reference_source" else spec.views
        self.view_embedding = nn.Parameter(torch.empty(count, tokens.dim))
        self.blocks = nn.ModuleList(
            Block(tokens.dim, spec.heads, bias=False, fused=False, eps=1e-5) for _ in range(spec.blocks)
        )
        self.norm = nn.LayerNorm(tokens.dim, eps=1e-5, bias=False)
        initialize(self)
        nn.init.trunc_normal_(self.table, std=0.02)
        nn.init.trunc_normal_(self.view_embedding, std=0.02)

    def forward(self, tokens: Tokens, cameras: Cameras | None, taps: Sequence[int]) -> list[Tokens]:
        """The tokens at each of `taps`, in that order; only those are stored. The last level is normalized."""
        levels = {0: tokens}
        x = self.embed(tokens)
        for level, block in enumerate(self.blocks, start=1):
            x = block(x)
            if level in taps:
                levels[level] = _by_view(self.norm(x) if level == len(self.blocks) else x, tokens)
        return [levels[tap] for tap in taps]

    def embed(self, tokens: Tokens) -> Float[Tensor, "batch token dim"]:
        """All views' tokens in one sequence, view by view: extra tokens, then patches row by row."""
        views, rows, cols = tokens.grid.shape[1:4]
        x = (tokens.grid + self.positions(rows, cols)).flatten(2, 3)
        if tokens.extra is not None:
            x = torch.cat([tokens.extra, x], dim=2)
        return (x + self.embeddings(views)[:, None]).flatten(1, 2)

    def positions(self, rows: int, cols: int) -> Float[Tensor, "rows cols dim"]:
        """The table at another size: bicubic, by DINO's scale factor (n + 0.1) / side.

        As a product with the resampling's weights, whose gradient is deterministic on CUDA (that of `interpolate` is
        not). FreeSplatter's public code exchanges the table's rows and columns on non-square images, a slip that no
        published weight was trained with: such images are refused. Raises ValueError.
        """
        if rows != cols:
            raise ValueError(
                f"self_attention's position table serves square images, these have {rows} × {cols} patches; "
                "crop or pad them to a square"
            )
        side = self.table.shape[0]
        if rows == side:
            return self.table
        with torch.autocast(self.table.device.type, enabled=False):
            identity = torch.eye(side, device=self.table.device)[None, None]
            scale = ((rows + 0.1) / side, 1.0)
            weights = F.interpolate(identity, scale_factor=scale, mode="bicubic", recompute_scale_factor=False)[0, 0]
            return torch.einsum("rs,ct,std->rcd", weights, weights, self.table)

    def embeddings(self, views: int) -> Float[Tensor, "view dim"]:
        """One embedding a view, or the first for view 0 (reference) and the second for all others (source)."""
        if self.spec.view_embedding == "per_view":
            return self.view_embedding[:views]
        return torch.cat([self.view_embedding[:1], self.view_embedding[1:].expand(views - 1, -1)])


def _by_view(x: Float[Tensor, "batch token dim"], like: Tokens) -> Tokens:
    """The inverse of `embed`'s layout."""
    _, views, rows, cols, _ = like.grid.shape
    x = rearrange(x, "b (v n) d -> b v n d", v=views)
    extra = x.shape[2] - rows * cols
    grid = rearrange(x[:, :, extra:], "b v (r c) d -> b v r c d", r=rows)
    return Tokens(grid=grid, extra=x[:, :, :extra] if extra else None)
