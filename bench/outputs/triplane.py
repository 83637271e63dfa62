"""Radiance fields on three planes (LRM): volume-rendered; they have no surface point a pixel."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from bench.outputs import Capability, OutputType
from bench.rendering import Rendering
from bench.rendering.volume import render_planes
from models.ead import EADSpec
from models.tensors import Cameras, Triplane


class TriplaneType(OutputType):
    def capabilities(self, model: EADSpec) -> frozenset[Capability]:
        return frozenset({"rendering"})

    def render(self, output: Triplane, cameras: Cameras, background: Float[Tensor, "batch target 3"]) -> Rendering:
        return render_planes(output, cameras, background)


TYPE = TriplaneType()
