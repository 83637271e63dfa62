"""A as learned tokens of three feature planes: they read the images' tokens by cross-attention (LRM), or join them in
self-attention (PF-LRM).

Source: 3DTopia/OpenLRM openlrm/models/modeling_lrm.py, transformer.py, block.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from models.layers import ReadingBlock, ViewTokens
from models.parts import AggregatorSpec, Problem, at_least_one
from models.tensors import Cameras, Tokens, TokenSpec, constant

CAMERA_NUMBERS = 16  # camera to world 3 × 4, normalized focal lengths and principal point


@dataclass(frozen=True)
class Spec(AggregatorSpec):
    """`side`: tokens on a plane's side. `reads`: cross-attention to all views' tokens, or self-attention with them.

    `camera_dim`: width of the embedding of the first view's camera that modulates every LayerNorm (LRM), 0 for no
    modulation; it needs `poses: known`. `view_embedding`: one for the first view, whose frame is the output's, and one
    for the others. Level 0 is E's tokens, the others are the planes'.
    """

    blocks: int = 12
    width: int = 1024
    heads: int = 16
    side: int = 32
    reads: Literal["cross_attention", "self_attention"] = "cross_attention"
    camera_dim: int = 0
    view_embedding: Literal["reference_source", "none"] = "none"

    sizes = {
        "tiny": {"blocks": 2, "width": 192, "heads": 6, "side": 8},
        "small": {"blocks": 8, "width": 384, "heads": 6, "side": 16},
    }

    @property
    def reads_cameras(self) -> bool:
        return self.camera_dim > 0

    def problems(self, tokens: TokenSpec, inputs: int) -> Iterator[Problem]:
        if wrong := at_least_one(self, "blocks", "width", "heads", "side"):
            yield from wrong
            return
        if self.width % self.heads:
            yield Problem(
                "heads", f"width {self.width} is not a multiple of heads {self.heads}; choose one that divides it"
            )
        if self.camera_dim < 0:
            yield Problem("camera_dim", f"{self.camera_dim} is too small: 0 for no modulation by the camera")

    def levels(self, tokens: TokenSpec) -> list[TokenSpec]:
        return [tokens, *[TokenSpec(self.width, 1, layout="planes")] * self.blocks]

    def build(self, tokens: TokenSpec) -> TriplaneTokens:
        return TriplaneTokens(self, tokens)


class TriplaneTokens(nn.Module):
    """Levels: E's tokens, then the planes' (batch, 3, side, side, width); the last is normalized."""

    def __init__(self, spec: Spec, tokens: TokenSpec) -> None:
        super().__init__()
        self.spec = spec
        cross = spec.reads == "cross_attention"
        self.planes = nn.Parameter(torch.randn(3, spec.side, spec.side, spec.width) * spec.width**-0.5)
        if not cross:
            self.embed = nn.Linear(tokens.dim, spec.width)
        if spec.camera_dim:
            self.camera = nn.Sequential(
                nn.Linear(CAMERA_NUMBERS, spec.camera_dim), nn.SiLU(), nn.Linear(spec.camera_dim, spec.camera_dim)
            )
        self.blocks = nn.ModuleList(
            ReadingBlock(spec.width, spec.heads, tokens.dim if cross else 0, condition_dim=spec.camera_dim)
            for _ in range(spec.blocks)
        )
        self.norm = nn.LayerNorm(spec.width, eps=1e-6)
        self.images = ViewTokens(tokens.dim, spec.view_embedding == "reference_source")

    def forward(self, tokens: Tokens, cameras: Cameras | None, taps: Sequence[int]) -> list[Tokens]:
        """The tokens at each of `taps`, in that order; only those are stored."""
        batch, side = len(tokens.grid), self.spec.side
        images = self.images(tokens)
        x = self.planes.flatten(0, 2).expand(batch, -1, -1)
        memory = images if self.spec.reads == "cross_attention" else None
        if memory is None:
            x = torch.cat([x, self.embed(images)], dim=1)
        condition = None
        if self.spec.camera_dim:
            assert cameras is not None, "the model gives cameras to every part that reads them"
            condition = self.camera(camera_numbers(cameras))
        levels = {0: tokens}
        for level, block in enumerate(self.blocks, start=1):
            x = block(x, memory, condition)
            if level in taps:
                planes = x[:, : 3 * side * side]
                planes = self.norm(planes) if level == len(self.blocks) else planes
                grid = rearrange(planes, "b (plane r c) d -> b plane r c d", plane=3, r=side)
                levels[level] = Tokens(grid, layout="planes")
        return [levels[tap] for tap in taps]


def camera_numbers(cameras: Cameras) -> Float[Tensor, "batch 16"]:
    """The first view's camera as OpenLRM's: camera to world (row by row), then fx, fy, cx, cy in units of the image."""
    pose = cameras.camera_to_world[:, 0, :3, :4].flatten(1)
    size = constant(pose, cameras.width, cameras.height)
    intrinsics = cameras.intrinsics[:, 0]
    focal = torch.stack([intrinsics[:, 0, 0], intrinsics[:, 1, 1]], dim=-1) / size
    return torch.cat([pose, focal, intrinsics[:, :2, 2] / size], dim=-1)
