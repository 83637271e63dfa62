"""Images of the input views, for cross-view completion (CroCo): no geometry, nothing to render."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from bench.outputs import Capability, OutputType
from models.ead import EADSpec
from models.tensors import Pixels


class PixelsType(OutputType):
    def capabilities(self, model: EADSpec) -> frozenset[Capability]:
        return frozenset({"images"})

    def images(self, output: Pixels) -> Float[Tensor, "batch view 3 height width"]:
        return output.images


TYPE = PixelsType()
