"""The head's channels as GS-LRM's Gaussians: a distance along each pixel's known ray instead of a free mean.

Source: GS-LRM (Zhang et al. 2024), section 3 and appendix; Intern-Nexus/gs-lrm-unofficial src/model/encoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from models.parts import OutputSpec, Problem
from models.tensors import Dense, Gaussians, Views


@dataclass(frozen=True)
class Spec(OutputSpec):
    """`near` and `far`: the distances from the camera between which a Gaussian lies. Scales are
    min(exp(x + scale_bias), scale_max), in the unit of the scene's frame; `poses: known`."""

    sh_degree: Literal[0, 1, 2, 3, 4] = 0
    near: float = 0.1
    far: float = 4.5
    scale_bias: float = -2.3
    scale_max: float = 0.3
    opacity_bias: float = -2.0

    kind = "gaussians"
    sizes = {"tiny": {"scale_bias": -3.5}, "small": {"scale_bias": -3.5}}

    @property
    def reads_cameras(self) -> bool:
        return True

    def problems(self) -> Iterator[Problem]:
        if not 0 < self.near < self.far:
            yield Problem("near", f"{self.near} must lie between 0 and far, which is {self.far}")

    def channels(self) -> dict[str, int]:
        """In the public code's order; harmonics are (coefficient, RGB), rotations x, y, z, w."""
        return {"distances": 1, "harmonics": 3 * (self.sh_degree + 1) ** 2, "scales": 3, "rotations": 4, "opacities": 1}

    def build(self) -> GSLRMOutput:
        return GSLRMOutput(self)


class GSLRMOutput(nn.Module):
    """No parameters."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, dense: Dense, views: Views) -> Gaussians:
        assert views.cameras is not None, "the model gives cameras to every part that reads them"
        raw = {name: value.float() for name, value in dense.channels.items()}
        spec = self.spec
        origins, directions = views.cameras.rays()
        far = raw["distances"].sigmoid()
        return Gaussians(
            means=origins[..., None, None, :] + directions * (spec.near * (1 - far) + spec.far * far),
            rotations=F.normalize(torch.roll(raw["rotations"], 1, dims=-1), dim=-1),  # xyzw → wxyz
            scales=(raw["scales"] + spec.scale_bias).exp().clamp_max(spec.scale_max),
            opacities=(raw["opacities"] + spec.opacity_bias).sigmoid()[..., 0],
            harmonics=rearrange(raw["harmonics"], "b v h w (k rgb) -> b v h w k rgb", rgb=3),
        )
