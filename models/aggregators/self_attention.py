"""A as self-attention over the tokens of all views (FreeSplatter, GS-LRM, the proposed models; §2.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from models.layers import Block, initialize, positions_with_extra, resampling, rope_angles
from models.parts import AggregatorSpec, Problem, at_least_one
from models.tensors import Cameras, Tokens, TokenSpec

ROPE_BASE = 100.0


@dataclass(frozen=True)
class Spec(AggregatorSpec):
    """`scope`: a token attends to all views' tokens, or to those of its view (LRM's row of Table 1).

    `positions`: a learned table (FreeSplatter), RoPE2D of base 100, or none (GS-LRM, whose rays distinguish pixels).
    `table_size` is the image side in pixels at which the learned position table has one entry a patch.
    """

    blocks: int = 24
    heads: int = 16
    view_embedding: Literal["reference_source", "per_view", "none"] = "reference_source"
    views: int = 4  # of per_view: how many embeddings there are
    table_size: int = 512
    scope: Literal["all", "view"] = field(default="all", metadata={"legacy": "all"})
    positions: Literal["learned", "rope", "none"] = field(default="learned", metadata={"legacy": "learned"})

    sizes = {
        "tiny": {"blocks": 2, "heads": 6, "view_embedding": "per_view", "table_size": 32},
        "small": {"blocks": 12, "heads": 6, "table_size": 128},
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
        elif self.positions == "rope" and tokens.dim // self.heads % 4:
            yield Problem(
                "heads", f"RoPE2D needs a head width divisible by 4, {tokens.dim // self.heads} is not; change heads"
            )
        if self.positions == "learned" and self.table_size % tokens.patch:
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
        if spec.positions == "learned":
            side = spec.table_size // tokens.patch
            self.table = nn.Parameter(torch.empty(side, side, tokens.dim))
        if spec.view_embedding != "none":
            count = 2 if spec.view_embedding == "reference_source" else spec.views
            self.view_embedding = nn.Parameter(torch.empty(count, tokens.dim))
        self.blocks = nn.ModuleList(
            Block(tokens.dim, spec.heads, bias=False, fused=False, eps=1e-5) for _ in range(spec.blocks)
        )
        self.norm = nn.LayerNorm(tokens.dim, eps=1e-5, bias=False)
        initialize(self)
        if spec.positions == "learned":
            nn.init.trunc_normal_(self.table, std=0.02)
        if spec.view_embedding != "none":
            nn.init.trunc_normal_(self.view_embedding, std=0.02)

    def forward(self, tokens: Tokens, cameras: Cameras | None, taps: Sequence[int]) -> list[Tokens]:
        """The tokens at each of `taps`, in that order; only those are stored. The last level is normalized.

        Raises ValueError for more views than there are embeddings.
        """
        levels = {0: tokens}
        views = tokens.grid.shape[1]
        x = self.embed(tokens)
        rope = self.rope(tokens, views if self.spec.scope == "all" else 1) if self.spec.positions == "rope" else None
        x = x.flatten(1, 2) if self.spec.scope == "all" else x.flatten(0, 1)
        for level, block in enumerate(self.blocks, start=1):
            x = block(x, rope)
            if level in taps:
                levels[level] = _by_view(self.norm(x) if level == len(self.blocks) else x, tokens)
        return [levels[tap] for tap in taps]

    def embed(self, tokens: Tokens) -> Float[Tensor, "batch view token dim"]:
        """All tokens of each view: extra tokens, then patches row by row; positions and view embeddings added."""
        views, rows, cols = tokens.grid.shape[1:4]
        grid = tokens.grid if self.spec.positions != "learned" else tokens.grid + self.positions(rows, cols)
        x = grid.flatten(2, 3)
        if tokens.extra is not None:
            x = torch.cat([tokens.extra, x], dim=2)
        return x if self.spec.view_embedding == "none" else x + self.embeddings(views)[:, None]

    def rope(self, tokens: Tokens, views: int) -> tuple[Tensor, Tensor]:
        """RoPE2D of the tokens of so many views in sequence, each at the position that it has in its view."""
        _, _, rows, cols, dim = tokens.grid.shape
        extra = 0 if tokens.extra is None else tokens.extra.shape[2]
        with torch.autocast(tokens.grid.device.type, enabled=False):
            where = positions_with_extra(rows, cols, extra, tokens.grid.device)
            return rope_angles(where.repeat(views, 1), dim // self.spec.heads, ROPE_BASE)

    def positions(self, rows: int, cols: int) -> Float[Tensor, "rows cols dim"]:
        """The table at another size: bicubic, by DINO's scale factor (n + 0.1) / side.

        FreeSplatter's public code exchanges the table's rows and columns on non-square images, a slip that no
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
            weights = resampling(side, rows, self.table.device, offset=0.1)
            return torch.einsum("rs,ct,std->rcd", weights, weights, self.table)

    def embeddings(self, views: int) -> Float[Tensor, "view dim"]:
        """One embedding a view, or the first for view 0 (reference) and the second for all others (source)."""
        if self.spec.view_embedding == "per_view":
            if views > self.spec.views:
                raise ValueError(
                    f"this model has view embeddings for {self.spec.views} views, not for {views}; "
                    "train with view_embedding: reference_source for any number of views"
                )
            return self.view_embedding[:views]
        return torch.cat([self.view_embedding[:1], self.view_embedding[1:].expand(views - 1, -1)])


def _by_view(x: Float[Tensor, "sequence token dim"], like: Tokens) -> Tokens:
    """Sequences of one or of all views → the layout of `like`."""
    batch, views, rows, cols, _ = like.grid.shape
    x = x.reshape(batch, views, -1, x.shape[-1])
    extra = x.shape[2] - rows * cols
    grid = rearrange(x[:, :, extra:], "b v (r c) d -> b v r c d", r=rows)
    return Tokens(grid=grid, extra=x[:, :, :extra] if extra else None)
