"""D as one linear layer and a reshape: a token → p × p × K channels (§2.4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from einops import rearrange
from torch import nn

from models.layers import initialize
from models.parts import HeadSpec, Problem
from models.tensors import Dense, Tokens, TokenSpec, Views


@dataclass(frozen=True)
class Spec(HeadSpec):
    """`order` of a token's channels: `pixel_channel` (p q c) as FreeSplatter's, GS-LRM's and CroCo's heads, or
    `channel_pixel` (c p q) as DUSt3R's pixel shuffle. `per_token`: elements that a token of layout `set` becomes.
    """

    order: Literal["pixel_channel", "channel_pixel"] = field(
        default="pixel_channel", metadata={"legacy": "pixel_channel"}
    )
    per_token: int = field(default=8, metadata={"legacy": 8})
    bias: bool = field(default=True, metadata={"legacy": True})

    layouts = ("views", "set")

    def tap_levels(self, blocks: int) -> tuple[int, ...]:
        """A's last level."""
        return (blocks,)

    def problems(self, taps: Sequence[TokenSpec], image_size: int) -> Iterator[Problem]:
        if self.per_token < 1:
            yield Problem("per_token", f"{self.per_token} is too small: at least 1")

    def build(self, taps: Sequence[TokenSpec], channels: Mapping[str, int]) -> LinearHead:
        return LinearHead(self, taps[-1], channels)


class LinearHead(nn.Module):
    def __init__(self, spec: Spec, tokens: TokenSpec, channels: Mapping[str, int]) -> None:
        super().__init__()
        self.order, self.channels = spec.order, dict(channels)
        self.rows, self.cols = (1, spec.per_token) if tokens.layout == "set" else (tokens.patch, tokens.patch)
        self.linear = nn.Linear(tokens.dim, self.rows * self.cols * sum(channels.values()), bias=spec.bias)
        initialize(self)

    def forward(self, taps: Sequence[Tokens], views: Views) -> Dense:
        """Pixels of the input images for layout `views`, (batch, 1, 1, element) for `set`."""
        pattern = "(p q k)" if self.order == "pixel_channel" else "(k p q)"
        x = self.linear(taps[-1].grid)
        pixels = rearrange(x, f"b v r c {pattern} -> b v (r p) (c q) k", p=self.rows, q=self.cols)
        return Dense(dict(zip(self.channels, pixels.split(list(self.channels.values()), dim=-1), strict=True)))
