"""D as VGGT's DPT: DUSt3R's with a LayerNorm of its taps, positions added twice, and no unit that is never run.

Source: facebookresearch/vggt vggt/heads/dpt_head.py, vggt/heads/utils.py; compared once with its `DPTHead` on random
weights and odd and even grids in float32: max difference 4.5e-8 of values up to 0.22.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from models.dpt import DPTHead, DPTSpec, Fusion, split_channels
from models.heads.conv_up import coordinates
from models.parts import Problem
from models.tensors import Dense, Tokens, TokenSpec, Views

POSITION_SCALE = 0.1  # of the sines and cosines that are added
POSITION_BASE = 100.0


@dataclass(frozen=True)
class Spec(DPTSpec):
    """`taps`: levels of equal width, since one LayerNorm serves all: not E's tokens beside concatenated ones."""

    taps: tuple[int, int, int, int] = (5, 12, 18, 24)
    layer_dims: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    last_dim: int = 32

    sizes = {
        "tiny": {**DPTSpec.sizes["tiny"], "taps": (1, 1, 2, 2)},
        "small": {**DPTSpec.sizes["small"], "taps": (1, 3, 4, 6)},
    }

    def problems(self, taps: Sequence[TokenSpec], image_size: int) -> Iterator[Problem]:
        yield from super().problems(taps, image_size)
        if len(widths := {tap.dim for tap in taps}) > 1:
            found = " and ".join(map(str, sorted(widths)))
            yield Problem("taps", f"widths {found} cannot share one LayerNorm; tap levels of equal width")
        if odd := [dim for dim in (*self.layer_dims, self.features // 2) if dim % 4]:
            yield Problem("layer_dims", f"{odd[0]}: sines and cosines of two positions need a multiple of 4")

    def build(self, taps: Sequence[TokenSpec], channels: Mapping[str, int]) -> VGGTHead:
        return VGGTHead(self, taps, channels)


class VGGTHead(DPTHead):
    def __init__(self, spec: Spec, taps: Sequence[TokenSpec], channels: Mapping[str, int]) -> None:
        super().__init__(spec, taps, channels)
        self.norm = nn.LayerNorm(taps[0].dim)
        del self.fuse[-1].skip  # of the coarsest level, which has nothing to add

    def forward(self, taps: Sequence[Tokens], views: Views) -> Dense:
        height, width = views.images.shape[-2:]
        levels = []
        for tap, reassemble, project in zip(taps, self.reassemble, self.project, strict=True):
            assert isinstance(reassemble, nn.Sequential)
            x = reassemble[0](rearrange(self.norm(tap.grid), "b v r c d -> (b v) d r c"))
            levels.append(project(reassemble[1](x + positions(x, width / height))))
        x = self.conv1(self.merge(levels))
        x = F.interpolate(x, size=(height, width), mode="bilinear", align_corners=True)
        x = self.out(F.relu(self.conv2(x + positions(x, width / height))))
        return split_channels(x, self.channels, views)

    def merge(self, levels: Sequence[Tensor]) -> Float[Tensor, "n features rows cols"]:
        """From coarse to fine, each resized to the next level's size, the finest to twice its own.

        VGGT's residual units work in place: what they add their convolutions to is relu(x), not x.
        """
        sizes = [level.shape[-2:] for level in levels]
        targets = [tuple(2 * side for side in sizes[0]), *sizes[:-1]]
        path: Tensor | None = None
        for fuse, level, size in zip(reversed(self.fuse), reversed(levels), reversed(targets), strict=True):
            assert isinstance(fuse, Fusion)
            x = level if path is None else path + fuse.skip(F.relu(level))
            path = fuse.out(F.interpolate(fuse.refine(F.relu(x)), size=size, mode="bilinear", align_corners=True))
        assert path is not None
        return path


def positions(like: Float[Tensor, "n dim rows cols"], aspect: float) -> Float[Tensor, "dim rows cols"]:
    """Sines and cosines of each pixel's (u, v), which are coordinates on the image in units of half its diagonal."""
    dim, rows, cols = like.shape[1:]
    quarter = dim // 4
    frequencies = POSITION_BASE ** (-torch.arange(quarter, dtype=torch.double, device=like.device) / quarter)
    angles = coordinates(rows, cols, aspect, like)[:, None] * frequencies[:, None, None]  # (u, v), quarter, rows, cols
    waves = torch.cat([angles.sin(), angles.cos()], dim=1).flatten(0, 1)
    return (POSITION_SCALE * waves).to(like.dtype)
