"""Pointmaps (DUSt3R): a surface point and a confidence a pixel; nothing to render."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from bench.outputs import Capability, OutputType, Points
from models.ead import EADSpec
from models.tensors import PointMap


class PointMapType(OutputType):
    scale_free = True  # confidence_points compares normalized distances

    def capabilities(self, model: EADSpec) -> frozenset[Capability]:
        points: frozenset[Capability] = frozenset({"surface_points", "confidence"})
        return points | {"descriptors"} if "descriptors" in model.output.channels() else points

    def surface_points(self, output: PointMap) -> Points:
        return output.points

    def confidence(self, output: PointMap) -> Float[Tensor, "batch view height width"]:
        return output.confidence

    def descriptors(
        self, output: PointMap
    ) -> tuple[Float[Tensor, "batch view height width descriptor"], Float[Tensor, "batch view height width"]] | None:
        if output.descriptors is None or output.descriptor_confidence is None:
            return None
        return output.descriptors, output.descriptor_confidence


TYPE = PointMapType()
