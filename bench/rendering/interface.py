"""What every back end takes and gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Layers:
    """Sums over the Gaussians of a pixel, each weighted by what it hides, before any background."""

    color: Float[Tensor, "batch view 3 height width"]
    depth: Float[Tensor, "batch view height width"]  # Σ weight · z
    transmittance: Float[Tensor, "batch view height width"]  # what the background still gives: 1 − Σ weight


@runtime_checkable
class Rasterize(Protocol):
    """A back end. `colors` has one view when they do not depend on the direction. Cameras get no gradient.

    Semantics of gsplat 1.5: 0.3 px² blur; alpha below 1/255 skipped, capped at 0.999; a pixel stops before its
    transmittance reaches 1e-4; Gaussians with z outside [near, far] skipped; the projection's Jacobian clamped at
    30 % beyond the image; pixel centers at +0.5; front to back by z.
    """

    def __call__(
        self,
        means: Float[Tensor, "batch gaussian 3"],
        rotations: Float[Tensor, "batch gaussian 4"],
        scales: Float[Tensor, "batch gaussian 3"],
        opacities: Float[Tensor, "batch gaussian"],
        colors: Float[Tensor, "batch view_or_1 gaussian 3"],
        cameras: Float[Tensor, "batch view 4 4"],
        intrinsics: Float[Tensor, "batch view 3 3"],
        width: int,
        height: int,
        near: float,
        far: float,
    ) -> Layers: ...
