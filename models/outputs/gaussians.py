"""The head's channels as Gaussians G = {μ, α, r, s, c}, K = 11 + k (§2.1), with FreeSplatter's activations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from models.layers import SH_C0
from models.parts import OutputSpec, Problem
from models.tensors import Dense, Gaussians, Views


@dataclass(frozen=True)
class Spec(OutputSpec):
    """Scales are in the unit of the scene's frame. `color_residual` adds the input pixel's color to the constant
    harmonic: a departure from the paper that short trainings need."""

    sh_degree: Literal[0, 1, 2, 3, 4] = 1
    scale_min: float = 1.0e-4
    scale_max: float = 0.02
    opacity_bias: float = 0.0
    color_residual: bool = field(default=False, metadata={"former_name": "colour_residual"})

    kind = "gaussians"
    sizes = {"tiny": {"sh_degree": 0, "scale_max": 0.08, "color_residual": True}, "small": {"scale_max": 0.03}}

    def problems(self) -> Iterator[Problem]:
        if not 0 < self.scale_min < self.scale_max:
            yield Problem("scale_min", f"{self.scale_min} must lie between 0 and scale_max, which is {self.scale_max}")

    def channels(self) -> dict[str, int]:
        """In FreeSplatter's order; harmonics are (coefficient, RGB)."""
        return {"means": 3, "harmonics": 3 * (self.sh_degree + 1) ** 2, "opacities": 1, "scales": 3, "rotations": 4}

    def build(self) -> GaussiansOutput:
        return GaussiansOutput(self)


class GaussiansOutput(nn.Module):
    """No parameters; float32 whatever the head's precision. Means are raw, in the frame of the cameras."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, dense: Dense, views: Views) -> Gaussians:
        raw = {name: value.float() for name, value in dense.channels.items()}
        spec = self.spec
        harmonics = rearrange(raw["harmonics"], "b v h w (k rgb) -> b v h w k rgb", rgb=3)
        if spec.color_residual:
            color = rearrange((views.images.float() - 0.5) / SH_C0, "b v rgb h w -> b v h w 1 rgb")
            harmonics = torch.cat([harmonics[..., :1, :] + color, harmonics[..., 1:, :]], dim=-2)
        return Gaussians(
            means=raw["means"],
            rotations=F.normalize(raw["rotations"], dim=-1),
            scales=spec.scale_min + (spec.scale_max - spec.scale_min) * raw["scales"].sigmoid(),
            opacities=(raw["opacities"] + spec.opacity_bias).sigmoid()[..., 0],
            harmonics=harmonics,
        )
