"""D as Pi3X's convolutional head: three doublings of the resolution by transposed convolutions, then the image's size.

A dense head that is no DPT. Source: yyfz/Pi3 pi3/models/layers/conv_head.py (which is MoGe's); compared once with its
`ConvHead` (commit 9fa3ddb) on random weights and 4 × 6 patches in float32: no difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from models.dpt import split_channels
from models.parts import HeadSpec, Problem, at_least_one
from models.tensors import Dense, Tokens, TokenSpec, Views

GROUP = 32  # channels that GroupNorm normalizes together

conv3x3 = partial(nn.Conv2d, kernel_size=3, padding=1, padding_mode="replicate")


@dataclass(frozen=True)
class Spec(HeadSpec):
    """`widths`: channels after each doubling; `hidden`: of the residual blocks, as a multiple of their width."""

    widths: tuple[int, int, int] = (256, 128, 64)
    residual_blocks: int = 2
    hidden: int = 2
    last_dim: int = 32

    sizes = {
        "tiny": {"widths": (64, 48, 32), "residual_blocks": 1},
        "small": {"widths": (128, 64, 64)},
    }

    def problems(self, taps: Sequence[TokenSpec], image_size: int) -> Iterator[Problem]:
        yield from at_least_one(self, "residual_blocks", "hidden", "last_dim")
        if wrong := [width for width in self.widths if width < 1 or width * self.hidden % GROUP]:
            yield Problem("widths", f"{wrong[0]} × hidden {self.hidden} must be a multiple of {GROUP}, for GroupNorm")

    def tap_levels(self, blocks: int) -> tuple[int, ...]:
        """A's last level."""
        return (blocks,)

    def build(self, taps: Sequence[TokenSpec], channels: Mapping[str, int]) -> ConvUpHead:
        return ConvUpHead(self, taps[-1], channels)


class ResidualBlock(nn.Module):
    """x + two convolutions, each after GroupNorm and ReLU."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(1, dim),
            nn.ReLU(),
            conv3x3(dim, hidden),
            nn.GroupNorm(hidden // GROUP, hidden),
            nn.ReLU(),
            conv3x3(hidden, dim),
        )

    def forward(self, x: Float[Tensor, "n dim rows cols"]) -> Float[Tensor, "n dim rows cols"]:
        out: Tensor = x + self.layers(x)
        return out


class ConvUpHead(nn.Module):
    """Every stage reads two more channels: where its pixels lie on the image, in units of the diagonal's half."""

    def __init__(self, spec: Spec, tokens: TokenSpec, channels: Mapping[str, int]) -> None:
        super().__init__()
        self.channels = dict(channels)
        self.blocks = nn.ModuleList()
        for before, width in zip((tokens.dim, *spec.widths), spec.widths, strict=False):
            double = nn.ConvTranspose2d(before + 2, width, 2, stride=2)
            with torch.no_grad():  # equal taps: no grid of the kernel's size at the start of training
                double.weight.copy_(double.weight[:, :, :1, :1].expand_as(double.weight))
            residual = (ResidualBlock(width, spec.hidden * width) for _ in range(spec.residual_blocks))
            self.blocks.append(nn.Sequential(double, conv3x3(width, width), *residual))
        self.last = conv3x3(spec.widths[-1] + 2, spec.last_dim)
        self.out = nn.Conv2d(spec.last_dim, sum(channels.values()), 1)

    def forward(self, taps: Sequence[Tokens], views: Views) -> Dense:
        height, width = views.images.shape[-2:]
        x = rearrange(taps[-1].grid, "b v r c d -> (b v) d r c")
        for block in self.blocks:
            x = block(with_coordinates(x, width / height))
        x = F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)
        x = self.out(F.relu(self.last(with_coordinates(x, width / height))))
        return split_channels(x, self.channels, views)


def with_coordinates(x: Float[Tensor, "n dim rows cols"], aspect: float) -> Float[Tensor, "n dim_2 rows cols"]:
    """x and the (u, v) of each pixel's center."""
    rows, cols = x.shape[-2:]
    where = coordinates(rows, cols, aspect, x)
    return torch.cat([x, where.expand(len(x), -1, -1, -1)], dim=1)


def coordinates(rows: int, cols: int, aspect: float, like: Tensor) -> Float[Tensor, "2 rows cols"]:
    """(u, v) of each pixel's center: the image's corners lie on the unit circle."""
    diagonal = float(1 + aspect**2) ** 0.5
    span_u, span_v = aspect / diagonal * (cols - 1) / cols, 1 / diagonal * (rows - 1) / rows
    u = torch.linspace(-span_u, span_u, cols, device=like.device, dtype=like.dtype)
    v = torch.linspace(-span_v, span_v, rows, device=like.device, dtype=like.dtype)
    v, u = torch.meshgrid(v, u, indexing="ij")
    return torch.stack([u, v])
