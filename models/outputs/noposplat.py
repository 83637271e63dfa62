"""The head's channels as NoPoSplat's Gaussians.

Source: cvg/NoPoSplat src/model/encoder/common/gaussian_adapter.py (`UnifiedGaussianAdapter`), encoder_noposplat.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from models.layers import exponential_points
from models.parts import OutputSpec, Problem
from models.tensors import Dense, Gaussians, Views, constant


@dataclass(frozen=True)
class Spec(OutputSpec):
    """Scales are min(scale_factor · softplus(x), scale_max), in the unit of the scene's frame."""

    sh_degree: Literal[0, 1, 2, 3, 4] = 4
    scale_factor: float = 0.001
    scale_max: float = 0.3

    kind = "gaussians"
    sizes = {"tiny": {"sh_degree": 0, "scale_factor": 0.05}, "small": {"sh_degree": 1, "scale_factor": 0.015}}

    def problems(self) -> Iterator[Problem]:
        for field in ("scale_factor", "scale_max"):
            if getattr(self, field) <= 0:
                yield Problem(field, f"{getattr(self, field)} must be positive")

    def channels(self) -> dict[str, int]:
        """In the public code's order; rotations are x, y, z, w, harmonics (RGB, coefficient)."""
        return {"means": 3, "opacities": 1, "scales": 3, "rotations": 4, "harmonics": 3 * (self.sh_degree + 1) ** 2}

    def build(self) -> NoPoSplatOutput:
        return NoPoSplatOutput(self)


class NoPoSplatOutput(nn.Module):
    """No parameters. Harmonics of degree d ≥ 1 are damped by 0.1 · 4^−d, so that training starts from plain colors."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.damping = [1.0] + [
            0.1 * 0.25**degree for degree in range(1, spec.sh_degree + 1) for _ in range(2 * degree + 1)
        ]

    def forward(self, dense: Dense, views: Views) -> Gaussians:
        raw = {name: value.float() for name, value in dense.channels.items()}
        harmonics = rearrange(raw["harmonics"], "b v h w (rgb k) -> b v h w k rgb", rgb=3)
        return Gaussians(
            means=exponential_points(raw["means"]),
            rotations=F.normalize(torch.roll(raw["rotations"], 1, dims=-1), dim=-1),  # xyzw → wxyz
            scales=(self.spec.scale_factor * F.softplus(raw["scales"])).clamp_max(self.spec.scale_max),
            opacities=raw["opacities"].sigmoid()[..., 0],
            harmonics=harmonics * constant(harmonics, *self.damping)[:, None],
        )
