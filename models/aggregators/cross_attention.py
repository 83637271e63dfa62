"""A as CroCo's, DUSt3R's and MASt3R's decoder: each view attends to itself, then to the other views.

Source: naver/croco models/blocks.py DecoderBlock, models/croco.py; naver/dust3r dust3r/model.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.layers import Attention, CrossAttention, initialize, mlp, positions_with_extra, rope_angles
from models.parts import AggregatorSpec, Problem, ViewWeights, at_least_one
from models.tensors import Cameras, Tokens, TokenSpec


@dataclass(frozen=True)
class Spec(AggregatorSpec):
    """`view_weights`: DUSt3R has one set of blocks for the first view and another for the others, CroCo one for all.

    `memory`: what a block reads of the other views: their tokens after the block before it (DUSt3R), or E's tokens
    throughout (CroCo). With more than two views the others' tokens are joined.
    """

    blocks: int = 12
    width: int = 768
    heads: int = 12
    rope_base: float = 100.0
    view_weights: ViewWeights = "reference_source"
    memory: Literal["updated", "encoder"] = "updated"

    may_differ = ("view_weights", "memory")  # DUSt3R starts from CroCo
    sizes = {
        "tiny": {"blocks": 2, "width": 192, "heads": 6},
        "small": {"blocks": 6, "width": 384, "heads": 6},
    }

    @property
    def weights_fix(self) -> dict[str, object]:
        """What every published checkpoint decides: heads of 64 channels, of 32 in CroCo's small decoder."""
        return {"heads": max(1, self.width // (32 if self.width == 512 else 64)), "rope_base": 100.0}

    def problems(self, tokens: TokenSpec, inputs: int) -> Iterator[Problem]:
        if wrong := at_least_one(self, "blocks", "width", "heads"):
            yield from wrong
            return
        if self.width % self.heads or self.width // self.heads % 4:
            yield Problem(
                "heads",
                f"RoPE2D needs a head width divisible by 4, width {self.width} and heads {self.heads} give "
                f"{self.width / self.heads:g}; choose other heads or another width",
            )
        if inputs < 2:
            yield Problem("blocks", f"cross-attention reads the other views, but there is {inputs} input view")

    def levels(self, tokens: TokenSpec) -> list[TokenSpec]:
        return [tokens, *[TokenSpec(self.width, tokens.patch, tokens.extra)] * self.blocks]

    def build(self, tokens: TokenSpec) -> CrossAttentionDecoder:
        return CrossAttentionDecoder(self, tokens)


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention to a normalized memory, MLP, each pre-norm and added to its input."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        norm = partial(nn.LayerNorm, dim, eps=1e-6)
        self.norm1, self.norm2, self.norm3, self.norm_memory = norm(), norm(), norm(), norm()
        self.attn = Attention(dim, heads, bias=True, fused=True)
        self.cross = CrossAttention(dim, dim, heads, bias=True)
        self.mlp = mlp(dim, bias=True)

    def forward(
        self,
        x: Float[Tensor, "batch tokens dim"],
        memory: Float[Tensor, "batch memory dim"],
        rope: tuple[Tensor, Tensor],
        memory_rope: tuple[Tensor, Tensor],
    ) -> Float[Tensor, "batch tokens dim"]:
        x = x + self.attn(self.norm1(x), rope)
        x = x + self.cross(self.norm2(x), self.norm_memory(memory), rope, memory_rope)
        out: Tensor = x + self.mlp(self.norm3(x))
        return out


class CrossAttentionDecoder(nn.Module):
    """Levels: E's tokens, then the tokens of each block; the last is normalized."""

    def __init__(self, spec: Spec, tokens: TokenSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embed = nn.Linear(tokens.dim, spec.width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, spec.width))  # read only where patches are masked
        self.blocks = nn.ModuleList(DecoderBlock(spec.width, spec.heads) for _ in range(spec.blocks))
        if spec.view_weights == "reference_source":
            self.source_blocks = nn.ModuleList(DecoderBlock(spec.width, spec.heads) for _ in range(spec.blocks))
        self.norm = nn.LayerNorm(spec.width, eps=1e-6)
        initialize(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, tokens: Tokens, cameras: Cameras | None, taps: Sequence[int]) -> list[Tokens]:
        """The tokens at each of `taps`, in that order. Raises ValueError for a single view."""
        views, rows, cols = tokens.grid.shape[1:4]
        if views < 2:
            raise ValueError("cross_attention reads the other views: give at least two")
        extra = 0 if tokens.extra is None else tokens.extra.shape[2]
        embedded = self.embed(tokens.grid)
        if tokens.mask is not None:
            embedded = torch.where(tokens.mask[..., None], embedded, self.mask_token.to(embedded.dtype))
        embedded = embedded.flatten(2, 3)
        if tokens.extra is not None:
            embedded = torch.cat([self.embed(tokens.extra), embedded], dim=2)
        where = positions_with_extra(rows, cols, extra, embedded.device)
        levels = self.decode(list(embedded.unbind(1)), [where] * views)
        joined = {level: torch.stack(levels[level], dim=1) for level in set(taps) - {0}}
        spread = {
            level: Tokens(
                grid=rearrange(x[:, :, extra:], "b v (r c) d -> b v r c d", r=rows),
                extra=x[:, :, :extra] if extra else None,
                mask=tokens.mask,
            )
            for level, x in joined.items()
        }
        return [tokens if tap == 0 else spread[tap] for tap in taps]

    def decode(
        self, embedded: Sequence[Float[Tensor, "batch _ dim"]], where: Sequence[Int[Tensor, "_ 2"]]
    ) -> list[list[Tensor]]:
        """Level by level, the tokens of every view (batch, tokens, dim), whose grids may differ; level 0 as given."""
        with torch.autocast(embedded[0].device.type, enabled=False):
            ropes = [rope_angles(at, self.spec.width // self.spec.heads, self.spec.rope_base) for at in where]
        others = [[j for j in range(len(embedded)) if j != i] for i in range(len(embedded))]
        memory_ropes = [
            (torch.cat([ropes[j][0] for j in group]), torch.cat([ropes[j][1] for j in group])) for group in others
        ]
        source_blocks = self.source_blocks if self.spec.view_weights == "reference_source" else self.blocks
        levels = [list(embedded)]
        for first, rest in zip(self.blocks, source_blocks, strict=True):
            before, memory = levels[-1], levels[-1] if self.spec.memory == "updated" else levels[0]
            levels.append([
                (rest if i else first)(x, torch.cat([memory[j] for j in others[i]], 1), ropes[i], memory_ropes[i])
                for i, x in enumerate(before)
            ])  # fmt: skip
        levels[-1] = [self.norm(x) for x in levels[-1]]
        return levels
