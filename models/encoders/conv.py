"""E as one convolution of stride p (FreeSplatter, GS-LRM): all learning of image features is left to A (§2.2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from einops import rearrange
from torch import nn

from models.layers import PatchEmbedding, initialize
from models.parts import EncoderSpec, Problem, at_least_one
from models.tensors import Tokens, TokenSpec, Views


@dataclass(frozen=True)
class Spec(EncoderSpec):
    patch: int = 8
    width: int = 1024

    sizes = {"tiny": {"patch": 4, "width": 192}, "small": {"width": 768}}

    def problems(self) -> Iterator[Problem]:
        yield from at_least_one(self, "patch", "width")

    def tokens(self) -> TokenSpec:
        return TokenSpec(dim=self.width, patch=self.patch)

    def build(self) -> ConvEncoder:
        return ConvEncoder(self)


class ConvEncoder(nn.Module):
    """Images in [0, 1], unnormalized → tokens. No bias, as FreeSplatter's."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.patchify = PatchEmbedding(spec.patch, spec.width, bias=False)
        initialize(self)

    def forward(self, views: Views) -> Tokens:
        batch = views.images.shape[0]
        grid = self.patchify(rearrange(views.images, "b v c h w -> (b v) c h w"))
        return Tokens(grid=rearrange(grid, "(b v) d r c -> b v r c d", b=batch))
