"""E as VGG16's convolutions (Simonyan and Zisserman 2015) and one linear map: a pretrained encoder that is no ViT.

Its ImageNet weights are those of the LPIPS metric, which `python -m bench.setup` stores; no question of their license.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from einops import rearrange
from torch import nn

from models.layers import initialize, normalize_imagenet
from models.parts import EncoderSpec, Problem, at_least_one
from models.tensors import Tokens, TokenSpec, Views

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # a pooling between any two


@dataclass(frozen=True)
class Spec(EncoderSpec):
    """`patch`: the stride at which VGG16 is cut: 4 is after its third stage, 16 after its last convolution."""

    patch: Literal[4, 8, 16] = 16
    width: int = 1024

    sizes = {"tiny": {"patch": 8, "width": 192}, "small": {"width": 384}}

    def problems(self) -> Iterator[Problem]:
        yield from at_least_one(self, "width")

    def tokens(self) -> TokenSpec:
        return TokenSpec(dim=self.width, patch=self.patch)

    def build(self) -> CNNEncoder:
        return CNNEncoder(self)


class CNNEncoder(nn.Module):
    """Images in [0, 1], normalized by ImageNet's mean and deviation → tokens; each view alone."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        stages = STAGES[: spec.patch.bit_length()]
        layers: list[nn.Module] = []
        channels = 3
        for i, stage in enumerate(stages):
            layers += [nn.MaxPool2d(2)] if i else []
            for width in stage:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
        self.features = nn.Sequential(*layers)  # numbered as torchvision's `features`
        self.norm = nn.LayerNorm(channels)
        self.project = nn.Linear(channels, spec.width)
        initialize(self)
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, views: Views) -> Tokens:
        images = normalize_imagenet(views.images)
        x = self.features(rearrange(images, "b v c h w -> (b v) c h w"))
        x = rearrange(x, "(b v) d r c -> b v r c d", b=len(images))
        return Tokens(grid=self.project(self.norm(x)))
