"""D as one DPT for points, another for what else a Gaussian has, an MLP for descriptors (MASt3R, Splatt3R, NoPoSplat).

The output's channels decide: `means`, `points` and `confidence` come from the first DPT, `descriptors` and their
confidence from the MLP over the first and last tap, all others from the second DPT; a group without channels is not
built. Source: naver/mast3r mast3r/catmlp_dpt_head.py, btsmart/splatt3r (the same file), cvg/NoPoSplat
src/model/encoder/heads/dpt_gs_head.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from models import dpt
from models.tensors import Dense, Tokens, TokenSpec, Views

POINTS = ("means", "points", "confidence")
DESCRIPTORS = ("descriptors", "descriptor_confidence")


@dataclass(frozen=True)
class Spec(dpt.DPTSpec):
    """`second`: the other channels' DPT is like the first (Splatt3R), or adds an image branch at full resolution
    (NoPoSplat)."""

    second: Literal["dpt", "dpt_with_image"] = "dpt"

    may_differ = ("second",)  # Splatt3R and NoPoSplat start from MASt3R

    def build(self, taps: Sequence[TokenSpec], channels: Mapping[str, int]) -> nn.Module:
        return GroupedHead(self, taps, channels)


class GroupedHead(nn.Module):
    def __init__(self, spec: Spec, taps: Sequence[TokenSpec], channels: Mapping[str, int]) -> None:
        super().__init__()
        self.channels = dict(channels)
        points = {name: count for name, count in channels.items() if name in POINTS}
        descriptors = {name: count for name, count in channels.items() if name in DESCRIPTORS}
        rest = {name: count for name, count in channels.items() if name not in POINTS + DESCRIPTORS}
        parts: dict[str, nn.Module] = {}
        if points:
            parts["points"] = dpt.DPTHead(spec, taps, points)
        if descriptors:
            parts["descriptors"] = LocalFeatures(taps[0], taps[-1], descriptors)
        if rest:
            second = dpt.DPTHead if spec.second == "dpt" else DPTWithImage
            parts["rest"] = second(spec, taps, rest)
        self.parts = nn.ModuleDict(parts)

    def forward(self, taps: Sequence[Tokens], views: Views) -> Dense:
        groups = {name: value for part in self.parts.values() for name, value in part(taps, views).channels.items()}
        return Dense({name: groups[name] for name in self.channels})


class LocalFeatures(nn.Module):
    """MASt3R's: an MLP over the first and the last tap, token by token, laid out by pixel shuffle."""

    def __init__(self, first: TokenSpec, last: TokenSpec, channels: Mapping[str, int]) -> None:
        super().__init__()
        self.patch, self.channels = last.patch, dict(channels)
        dim = first.dim + last.dim
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, self.patch**2 * sum(channels.values()))

    def forward(self, taps: Sequence[Tokens], views: Views) -> Dense:
        x = self.fc2(F.gelu(self.fc1(torch.cat([taps[0].grid, taps[-1].grid], dim=-1))))
        pixels = rearrange(x, "b v r c (k p q) -> b v (r p) (c q) k", p=self.patch, q=self.patch)
        return Dense(dict(zip(self.channels, pixels.split(list(self.channels.values()), dim=-1), strict=True)))


class DPTWithImage(dpt.DPTTrunk):
    """NoPoSplat's: the fused map at full resolution plus a 7 × 7 convolution of the image, mapped to [−1, 1]."""

    def __init__(self, spec: Spec, taps: Sequence[TokenSpec], channels: Mapping[str, int]) -> None:
        super().__init__(spec, taps)
        self.channels = dict(channels)
        self.image = nn.Conv2d(3, spec.features, 7, padding=3)
        self.conv = nn.Conv2d(spec.features, spec.features, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(0.1)
        self.out = nn.Conv2d(spec.features, sum(channels.values()), 1)
        self.initialize(spec)

    def forward(self, taps: Sequence[Tokens], views: Views) -> Dense:
        size = views.images.shape[-2:]
        x = F.interpolate(self.fused(taps), size=size, mode="bilinear", align_corners=True)
        x = x + F.relu(self.image(views.images.flatten(0, 1) * 2 - 1))
        return dpt.split_channels(self.out(self.dropout(F.relu(self.conv(x)))), self.channels, views)
