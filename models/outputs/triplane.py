"""The head's planes and an MLP as a radiance field θ (LRM, PF-LRM).

Source: 3DTopia/OpenLRM openlrm/models/rendering/synthesizer.py (`OSGDecoder`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from models.parts import OutputSpec, Problem, at_least_one
from models.tensors import Dense, Triplane, Views


@dataclass(frozen=True)
class Spec(OutputSpec):
    """`features`: channels of a plane. `extent`: half the side of the cube that the planes span, in scene units.
    `samples`: along a ray when the field is rendered, half of them placed where the others find density."""

    features: int = 80
    hidden: int = 64
    layers: int = 4
    extent: float = 1.0
    samples: int = 96

    kind = "triplane"
    layouts = ("planes",)
    sizes = {
        "tiny": {"features": 16, "hidden": 32, "layers": 2, "samples": 16},
        "small": {"features": 32, "samples": 48},
    }

    def problems(self) -> Iterator[Problem]:
        yield from at_least_one(self, "features", "hidden", "layers")
        if self.samples < 4 or self.samples % 2:
            yield Problem("samples", f"{self.samples}: an even number, at least 4")
        if self.extent <= 0:
            yield Problem("extent", f"{self.extent} must be positive")

    def channels(self) -> dict[str, int]:
        return {"planes": self.features}

    def build(self) -> TriplaneOutput:
        return TriplaneOutput(self)


class TriplaneOutput(nn.Module):
    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.extent, self.samples = spec.extent, spec.samples
        self.decoder = PlaneDecoder(spec)

    def forward(self, dense: Dense, views: Views) -> Triplane:
        planes = rearrange(dense.channels["planes"].float(), "b plane r c d -> b plane d r c")
        return Triplane(planes, self.decoder, self.extent, self.samples)


class PlaneDecoder(nn.Module):
    """Features of the three planes → RGB and density before its activation.

    RGB is sigmoid(x) · 1.002 − 0.001, as in MipNeRF; density comes from the first channel.
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        widths = [3 * spec.features, *[spec.hidden] * (spec.layers - 1)]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.Linear(widths[-1], 4))

    def forward(
        self, features: Float[Tensor, "*shape point dim"]
    ) -> tuple[Float[Tensor, "*shape point 3"], Float[Tensor, "*shape point 1"]]:
        x = features.flatten(0, -3).transpose(1, 2)  # channels before points, as planes are sampled: nothing is copied
        for layer in self.net:
            if isinstance(layer, nn.Linear):
                x = torch.baddbmm(layer.bias[:, None], layer.weight.expand(len(x), -1, -1), x)
            else:
                x = layer(x)
        x = x.transpose(1, 2).reshape(*features.shape[:-1], 4)
        return torch.sigmoid(x[..., 1:]) * (1 + 2 * 0.001) - 0.001, x[..., :1]
