"""A as learned latent tokens that read all views and belong to no pixel: cost linear in the number of image tokens.

By cross-attention (TokenGS) or joined with the images' tokens in self-attention (C3G).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import nn

from models.layers import ReadingBlock, ViewTokens, initialize
from models.parts import AggregatorSpec, Problem, at_least_one
from models.tensors import Cameras, Tokens, TokenSpec


@dataclass(frozen=True)
class Spec(AggregatorSpec):
    """`count`: latent tokens a scene. `view_embedding`: one for the first view, whose frame is the output's, and one
    for the others. Level 0 is E's tokens, the others are the latents'."""

    blocks: int = 12
    width: int = 1024
    heads: int = 16
    count: int = 2048
    reads: Literal["cross_attention", "self_attention"] = "cross_attention"
    token_std: float = 0.01
    view_embedding: Literal["reference_source", "none"] = "reference_source"

    sizes = {
        "tiny": {"blocks": 2, "width": 192, "heads": 6, "count": 128},
        "small": {"blocks": 8, "width": 384, "heads": 6, "count": 1024},
    }

    def problems(self, tokens: TokenSpec, inputs: int) -> Iterator[Problem]:
        if wrong := at_least_one(self, "blocks", "width", "heads", "count"):
            yield from wrong
            return
        if self.width % self.heads:
            yield Problem(
                "heads", f"width {self.width} is not a multiple of heads {self.heads}; choose one that divides it"
            )
        if self.token_std <= 0:
            yield Problem("token_std", f"{self.token_std} must be positive, or all latents stay equal")

    def levels(self, tokens: TokenSpec) -> list[TokenSpec]:
        return [tokens, *[TokenSpec(self.width, 1, layout="set")] * self.blocks]

    def build(self, tokens: TokenSpec) -> Latents:
        return Latents(self, tokens)


class Latents(nn.Module):
    """The last level is normalized. Image tokens carry no position but what E gave them."""

    def __init__(self, spec: Spec, tokens: TokenSpec) -> None:
        super().__init__()
        self.spec = spec
        cross = spec.reads == "cross_attention"
        self.latents = nn.Parameter(torch.empty(spec.count, spec.width))
        if not cross:
            self.embed = nn.Linear(tokens.dim, spec.width)
        self.blocks = nn.ModuleList(
            ReadingBlock(spec.width, spec.heads, tokens.dim if cross else 0, qk_norm=True) for _ in range(spec.blocks)
        )
        self.norm = nn.LayerNorm(spec.width, eps=1e-6)
        self.images = ViewTokens(tokens.dim, spec.view_embedding == "reference_source")
        initialize(self)
        nn.init.normal_(self.latents, std=spec.token_std)

    def forward(self, tokens: Tokens, cameras: Cameras | None, taps: Sequence[int]) -> list[Tokens]:
        """The tokens at each of `taps`, in that order, as (batch, 1, 1, count, width); only those are stored."""
        images = self.images(tokens)
        x = self.latents.expand(len(images), -1, -1)
        memory = images if self.spec.reads == "cross_attention" else None
        if memory is None:
            x = torch.cat([x, self.embed(images)], dim=1)
        levels = {0: tokens}
        for level, block in enumerate(self.blocks, start=1):
            x = block(x, memory)
            if level in taps:
                latents = x[:, : self.spec.count]
                latents = self.norm(latents) if level == len(self.blocks) else latents
                levels[level] = Tokens(rearrange(latents, "b n d -> b 1 1 n d"), layout="set")
        return [levels[tap] for tap in taps]
