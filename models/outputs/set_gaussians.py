"""The head's channels as Gaussians that belong to no pixel (TokenGS, C3G): latents become several Gaussians each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from einops import rearrange
from torch import nn

from models.parts import OutputSpec, Problem
from models.tensors import Dense, Gaussians, Views, constant


@dataclass(frozen=True)
class Spec(OutputSpec):
    """`depth_offset` is added to z: where an untrained model puts its Gaussians, in the frame of the cameras."""

    sh_degree: Literal[0, 1, 2, 3, 4] = 1
    scale_min: float = 1.0e-4
    scale_max: float = 0.075
    opacity_bias: float = 2.0
    depth_offset: float = 0.0

    kind = "gaussians"
    layouts = ("set",)
    sizes = {"tiny": {"sh_degree": 0, "scale_max": 0.2}}

    def problems(self) -> Iterator[Problem]:
        if not 0 < self.scale_min < self.scale_max:
            yield Problem("scale_min", f"{self.scale_min} must lie between 0 and scale_max, which is {self.scale_max}")

    def channels(self) -> dict[str, int]:
        return {"means": 3, "harmonics": 3 * (self.sh_degree + 1) ** 2, "opacities": 1, "scales": 3, "rotations": 4}

    def build(self) -> SetGaussiansOutput:
        return SetGaussiansOutput(self)


class SetGaussiansOutput(nn.Module):
    """No parameters; shapes (batch, gaussian). Activations are those of `gaussians`."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, dense: Dense, views: Views) -> Gaussians:
        raw = {name: rearrange(value.float(), "b 1 1 n k -> b n k") for name, value in dense.channels.items()}
        spec = self.spec
        return Gaussians(
            means=raw["means"] + constant(raw["means"], 0, 0, spec.depth_offset),
            rotations=F.normalize(raw["rotations"], dim=-1),
            scales=spec.scale_min + (spec.scale_max - spec.scale_min) * raw["scales"].sigmoid(),
            opacities=(raw["opacities"] + spec.opacity_bias).sigmoid()[..., 0],
            harmonics=rearrange(raw["harmonics"], "b n (k rgb) -> b n k rgb", rgb=3),
        )
