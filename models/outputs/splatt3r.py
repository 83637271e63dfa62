"""The head's channels as Splatt3R's Gaussians: MASt3R's points, detached, plus a small learned offset.

Source: btsmart/splatt3r src/mast3r_src/mast3r/catmlp_dpt_head.py (`gaussian_postprocess`, `GaussianHead`), main.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from models.layers import SH_C0, exponential_points
from models.parts import OutputSpec, Problem
from models.tensors import Dense, Gaussians, Views, constant

OFFSET_SHIFT = 6.0  # offsets are exp(|x| − 6) − exp(−6) long: near zero for an untrained head


@dataclass(frozen=True)
class Spec(OutputSpec):
    """`descriptors`: of MASt3R's local features, which belong to the published model and are not read; 0 for none.

    `scale_bias` and `opacity_bias` are where the public code initializes the biases of its last layer. Published
    weights hold trained biases: they need 0 in both fields. `detach_points`: gradients reach the points through no
    Gaussian (Splatt3R freezes what it takes from MASt3R).
    """

    descriptors: int = 24
    scale_bias: float = -7.0
    opacity_bias: float = -2.0
    color_residual: bool = True
    detach_points: bool = True

    kind = "gaussians"
    sizes = {
        "tiny": {"descriptors": 0, "scale_bias": -3.5, "detach_points": False},
        "small": {"descriptors": 0, "scale_bias": -4.5, "detach_points": False},
    }

    def problems(self) -> Iterator[Problem]:
        if self.descriptors < 0:
            yield Problem("descriptors", f"{self.descriptors}: 0 for none, or a number of channels (MASt3R: 24)")

    def channels(self) -> dict[str, int]:
        """In the public code's order; rotations are x, y, z, w, harmonics of degree 0 (RGB)."""
        points = {"means": 3, "confidence": 1}
        described = {"descriptors": self.descriptors, "descriptor_confidence": 1} if self.descriptors else {}
        return points | described | {"offsets": 3, "scales": 3, "rotations": 4, "harmonics": 3, "opacities": 1}

    def build(self) -> Splatt3ROutput:
        return Splatt3ROutput(self)


class Splatt3ROutput(nn.Module):
    """No parameters."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, dense: Dense, views: Views) -> Gaussians:
        raw = {name: value.float() for name, value in dense.channels.items()}
        spec = self.spec
        points = exponential_points(raw["means"])
        distance = raw["offsets"].norm(dim=-1, keepdim=True)
        length = (distance - OFFSET_SHIFT).exp() - constant(distance, -OFFSET_SHIFT).exp()
        harmonics = raw["harmonics"]
        if spec.color_residual:
            harmonics = harmonics + rearrange((views.images.float() - 0.5) / SH_C0, "b v rgb h w -> b v h w rgb")
        return Gaussians(
            means=(points.detach() if spec.detach_points else points)
            + raw["offsets"] / distance.clamp_min(1e-8) * length,
            rotations=F.normalize(torch.roll(raw["rotations"], 1, dims=-1), dim=-1),  # xyzw → wxyz
            scales=(raw["scales"] + spec.scale_bias).exp(),
            opacities=(raw["opacities"] + spec.opacity_bias).sigmoid()[..., 0],
            harmonics=harmonics[..., None, :],
        )
