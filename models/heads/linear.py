"""D as one linear layer and a reshape: a token → p × p × K channels, laid out (p q c) as FreeSplatter does (§2.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from einops import rearrange
from torch import nn

from models.layers import initialize
from models.parts import HeadSpec
from models.tensors import Dense, Tokens, TokenSpec, Views


@dataclass(frozen=True)
class Spec(HeadSpec):
    def tap_levels(self, blocks: int) -> tuple[int, ...]:
        """A's last level."""
        return (blocks,)

    def build(self, taps: Sequence[TokenSpec], channels: Mapping[str, int]) -> LinearHead:
        return LinearHead(taps[-1], channels)


class LinearHead(nn.Module):
    def __init__(self, tokens: TokenSpec, channels: Mapping[str, int]) -> None:
        super().__init__()
        self.patch, self.channels = tokens.patch, dict(channels)
        self.linear = nn.Linear(tokens.dim, tokens.patch**2 * sum(channels.values()))
        initialize(self)

    def forward(self, taps: Sequence[Tokens], views: Views) -> Dense:
        p = self.patch
        pixels = rearrange(self.linear(taps[-1].grid), "b v r c (p q k) -> b v (r p) (c q) k", p=p, q=p)
        return Dense(dict(zip(self.channels, pixels.split(list(self.channels.values()), dim=-1), strict=True)))
