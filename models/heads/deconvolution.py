"""D as one transposed convolution of stride 2 over plane tokens: LRM's upsampling of its triplane.

Source: 3DTopia/OpenLRM openlrm/models/modeling_lrm.py (`upsampler`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from einops import rearrange
from torch import nn

from models.parts import HeadSpec
from models.tensors import Dense, Tokens, TokenSpec, Views


@dataclass(frozen=True)
class Spec(HeadSpec):
    layouts = ("planes",)

    def tap_levels(self, blocks: int) -> tuple[int, ...]:
        """A's last level."""
        return (blocks,)

    def build(self, taps: Sequence[TokenSpec], channels: Mapping[str, int]) -> DeconvolutionHead:
        return DeconvolutionHead(taps[-1], channels)


class DeconvolutionHead(nn.Module):
    """Planes (batch, 3, rows, cols, dim) → (batch, 3, 2 rows, 2 cols, channels)."""

    def __init__(self, tokens: TokenSpec, channels: Mapping[str, int]) -> None:
        super().__init__()
        self.channels = dict(channels)
        self.upsample = nn.ConvTranspose2d(tokens.dim, sum(channels.values()), 2, stride=2)

    def forward(self, taps: Sequence[Tokens], views: Views) -> Dense:
        grid = taps[-1].grid
        x = self.upsample(rearrange(grid, "b plane r c d -> (b plane) d r c"))
        planes = rearrange(x, "(b plane) k r c -> b plane r c k", b=len(grid))
        return Dense(dict(zip(self.channels, planes.split(list(self.channels.values()), dim=-1), strict=True)))
