"""Triplanes (LRM, PF-LRM): rendered as volumes; no surface point belongs to a pixel."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from bench.outputs import Capability, OutputType
from bench.rendering import Rendering, volume
from models.ead import EADSpec
from models.tensors import Cameras, Triplane


class TriplaneType(OutputType):
    def capabilities(self, model: EADSpec) -> frozenset[Capability]:
        return frozenset({"rendering"})

    def render(self, output: Triplane, cameras: Cameras, background: Float[Tensor, "batch target 3"]) -> Rendering:
        return volume.render(output, cameras, background)


TYPE = TriplaneType()
