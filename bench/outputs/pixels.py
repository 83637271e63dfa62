"""Images of the input views, for cross-view completion (CroCo): no geometry, nothing to render."""

from __future__ import annotations

from bench.outputs import Capability, OutputType
from models.ead import EADSpec


class PixelsType(OutputType):
    def capabilities(self, model: EADSpec) -> frozenset[Capability]:
        return frozenset({"images"})


TYPE = PixelsType()
