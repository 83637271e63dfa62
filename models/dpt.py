"""DPT (Ranftl et al. 2021) in DUSt3R's form: four levels of tokens, fused coarse to fine. Several heads are made of it.

Source: naver/croco models/dpt_block.py, naver/dust3r dust3r/heads/dpt_head.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from models.parts import HeadSpec, Problem, at_least_one
from models.tensors import Dense, Tokens, TokenSpec, Views


@dataclass(frozen=True)
class DPTSpec(HeadSpec):
    """`taps`: which levels of A are read (0 = E's tokens, k = after block k), from fine to coarse.

    `initialization`: `torch`, PyTorch's defaults, as in the published code, with which the output's deviation over
    pixels starts at some 1 % of the tokens'; or `lecun`, what short trainings need: normal weights of variance
    1 / fan-in (LeCun et al. 1998), a fifth of that deviation in the last layer.
    """

    taps: tuple[int, int, int, int] = (0, 6, 9, 12)
    layer_dims: tuple[int, int, int, int] = (96, 192, 384, 768)
    features: int = 256
    last_dim: int = 128
    initialization: Literal["torch", "lecun"] = field(default="torch", metadata={"legacy": "torch", "replaced": True})

    sizes = {
        "tiny": {"taps": (0, 1, 2, 2), "layer_dims": (24, 32, 48, 64), "features": 24, "last_dim": 24},
        "small": {"taps": (0, 3, 4, 6), "layer_dims": (48, 64, 96, 192), "features": 64, "last_dim": 48},
    }

    def problems(self, taps: Sequence[TokenSpec], image_size: int) -> Iterator[Problem]:
        yield from at_least_one(self, "features", "last_dim")
        if min(self.layer_dims) < 1:
            yield Problem("layer_dims", f"{list(self.layer_dims)}: each counts channels, at least 1")

    def tap_levels(self, blocks: int) -> tuple[int, ...]:
        return self.taps


class ResidualUnit(nn.Module):
    """x + conv(relu(conv(relu(x)))), 3 × 3."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(dim, dim, 3, padding=1) for _ in range(2))

    def forward(self, x: Float[Tensor, "n dim rows cols"]) -> Float[Tensor, "n dim rows cols"]:
        out: Tensor = self.conv2(F.relu(self.conv1(F.relu(x)))) + x
        return out


class Fusion(nn.Module):
    """Add the finer level to the coarser path, refine, double the resolution.

    `skip` of the coarsest level has nothing to add and is never run, yet it belongs to the published head and to the
    paper's 475M: its parameters are counted and get no gradient.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.skip, self.refine = ResidualUnit(dim), ResidualUnit(dim)
        self.out = nn.Conv2d(dim, dim, 1)

    def forward(self, path: Tensor | None, level: Tensor) -> Float[Tensor, "n dim rows cols"]:
        x = level if path is None else path[..., : level.shape[-2], : level.shape[-1]] + self.skip(level)
        x = F.interpolate(self.refine(x), scale_factor=2, mode="bilinear", align_corners=True)
        out: Tensor = self.out(x)
        return out


class DPTTrunk(nn.Module):
    """Four levels of tokens → one map of `features` channels at eight times the tokens' resolution.

    A head adds its layers, `out` the last of them, and calls `initialize` when all are there.
    """

    out: nn.Conv2d

    def __init__(self, spec: DPTSpec, taps: Sequence[TokenSpec]) -> None:
        super().__init__()
        d1, d2, _, d4 = spec.layer_dims
        resample = (
            nn.ConvTranspose2d(d1, d1, 4, stride=4),
            nn.ConvTranspose2d(d2, d2, 2, stride=2),
            nn.Identity(),
            nn.Conv2d(d4, d4, 3, stride=2, padding=1),
        )
        self.reassemble = nn.ModuleList(
            nn.Sequential(nn.Conv2d(tap.dim, dim, 1), layer)
            for tap, dim, layer in zip(taps, spec.layer_dims, resample, strict=True)
        )
        self.project = nn.ModuleList(nn.Conv2d(dim, spec.features, 3, padding=1, bias=False) for dim in spec.layer_dims)
        self.fuse = nn.ModuleList(Fusion(spec.features) for _ in spec.layer_dims)

    def fused(self, taps: Sequence[Tokens]) -> Float[Tensor, "n features rows cols"]:
        levels = [rearrange(tap.grid, "b v r c d -> (b v) d r c") for tap in taps]
        levels = [project(layer(x)) for project, layer, x in zip(self.project, self.reassemble, levels, strict=True)]
        path: Tensor | None = None
        for fuse, level in zip(reversed(self.fuse), reversed(levels), strict=True):
            path = fuse(path, level)
        assert path is not None
        return path

    def initialize(self, spec: DPTSpec) -> None:
        """As `spec.initialization` says."""
        if spec.initialization == "torch":
            return
        for m in self.modules():
            if isinstance(m, nn.Conv2d | nn.ConvTranspose2d):
                inputs = 1 if isinstance(m, nn.ConvTranspose2d) else math.prod(m.kernel_size)  # its stride: no overlap
                nn.init.normal_(m.weight, std=(0.2 if m is self.out else 1.0) * (m.in_channels * inputs) ** -0.5)
                if m.bias is not None:
                    nn.init.zeros_(m.bias)


class DPTHead(DPTTrunk):
    def __init__(self, spec: DPTSpec, taps: Sequence[TokenSpec], channels: Mapping[str, int]) -> None:
        super().__init__(spec, taps)
        self.channels = dict(channels)
        self.conv1 = nn.Conv2d(spec.features, spec.features // 2, 3, padding=1)
        self.conv2 = nn.Conv2d(spec.features // 2, spec.last_dim, 3, padding=1)
        self.out = nn.Conv2d(spec.last_dim, sum(channels.values()), 1)
        self.initialize(spec)

    def forward(self, taps: Sequence[Tokens], views: Views) -> Dense:
        size = views.images.shape[-2:]
        x = F.interpolate(self.conv1(self.fused(taps)), size=size, mode="bilinear", align_corners=True)
        return split_channels(self.out(F.relu(self.conv2(x))), self.channels, views)


def split_channels(x: Float[Tensor, "n k height width"], channels: Mapping[str, int], views: Views) -> Dense:
    """Images of all channels, view by view → named groups with the channels last."""
    pixels = rearrange(x, "(b v) k h w -> b v h w k", b=views.images.shape[0])
    return Dense(dict(zip(channels, torch.split(pixels, list(channels.values()), dim=-1), strict=True)))
