"""The input and output of every back end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class RasterInput:
    """Colored Gaussians, and the cameras to project them into. Back ends give gradients to the first five fields."""

    means: Float[Tensor, "batch gaussian 3"]  # in the scene's frame
    rotations: Float[Tensor, "batch gaussian 4"]  # quaternions (w, x, y, z) of any length
    scales: Float[Tensor, "batch gaussian 3"]  # standard deviations, in the frame's unit
    opacities: Float[Tensor, "batch gaussian"]
    colors: Float[Tensor, "batch view_or_1 gaussian 3"]  # one view where they do not depend on the direction
    world_to_camera: Float[Tensor, "batch view 4 4"]
    intrinsics: Float[Tensor, "batch view 3 3"]  # pixels
    width: int  # pixels
    height: int  # pixels
    near: float  # of z, in the frame's unit
    far: float


@dataclass(frozen=True)
class Layers:
    """Sums over the Gaussians of a pixel, each weighted by its visible opacity, before any background."""

    color: Float[Tensor, "batch view 3 height width"]
    depth: Float[Tensor, "batch view height width"]  # Σ weight · z
    transmittance: Float[Tensor, "batch view height width"]  # the background's share: 1 − Σ weight


@runtime_checkable
class Rasterize(Protocol):
    """A back end.

    Semantics of gsplat 1.5: 0.3 px² blur; alpha below 1/255 skipped, capped at 0.999; a pixel stops before its
    transmittance reaches 1e-4; Gaussians with z outside [near, far] skipped; the projection's Jacobian clamped at
    30 % beyond the image; pixel centers at +0.5; front to back by z.
    """

    def __call__(self, inputs: RasterInput) -> Layers: ...
