"""E as one convolution of stride p (FreeSplatter, GS-LRM): all learning of image features is left to A (§2.2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from models.layers import PatchEmbedding, initialize
from models.parts import EncoderSpec, Problem, at_least_one
from models.tensors import Cameras, Tokens, TokenSpec, Views


@dataclass(frozen=True)
class Spec(EncoderSpec):
    """`rays`: GS-LRM's nine channels, RGB and the Plücker coordinates of each pixel's ray (`poses: known`)."""

    patch: int = 8
    width: int = 1024
    rays: bool = field(default=False, metadata={"legacy": False})

    sizes = {"tiny": {"patch": 4, "width": 192}, "small": {"width": 384}}

    @property
    def reads_cameras(self) -> bool:
        return self.rays

    def problems(self) -> Iterator[Problem]:
        yield from at_least_one(self, "patch", "width")

    def tokens(self) -> TokenSpec:
        return TokenSpec(dim=self.width, patch=self.patch)

    def build(self) -> ConvEncoder:
        return ConvEncoder(self)


class ConvEncoder(nn.Module):
    """Images in [0, 1], unnormalized → tokens. No bias, as FreeSplatter's.

    With rays the images are mapped to [−1, 1], followed by the ray's moment and direction.
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.rays = spec.rays
        self.patchify = PatchEmbedding(spec.patch, spec.width, bias=False, channels=9 if spec.rays else 3)
        initialize(self)

    def forward(self, views: Views) -> Tokens:
        batch = views.images.shape[0]
        pixels = views.images
        if self.rays:
            assert views.cameras is not None, "the model gives cameras to every part that reads them"
            pixels = torch.cat([pixels * 2 - 1, plucker(views.cameras)], dim=2)
        grid = self.patchify(rearrange(pixels, "b v c h w -> (b v) c h w"))
        return Tokens(grid=rearrange(grid, "(b v) d r c -> b v r c d", b=batch))


def plucker(cameras: Cameras) -> Float[Tensor, "batch view 6 height width"]:
    """Moment (origin × direction) and unit direction of the ray through each pixel's center."""
    origins, directions = cameras.rays()
    moments = torch.linalg.cross(origins[..., None, None, :].expand_as(directions), directions)
    return rearrange(torch.cat([moments, directions], dim=-1), "b v h w c -> b v c h w")
