"""The head's channels as DUSt3R's pointmap: points in the first view's frame and their confidence, for MASt3R with
descriptors.

Source: naver/dust3r dust3r/heads/postprocess.py, naver/mast3r mast3r/catmlp_dpt_head.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import nn

from models.layers import exponential_points
from models.parts import OutputSpec, Problem
from models.tensors import Dense, PointMap, Views


@dataclass(frozen=True)
class Spec(OutputSpec):
    """`descriptors`: channels of MASt3R's descriptors, 0 for none (MASt3R has 24).

    `descriptor_confidence_max`: none at the paper's size. The matching loss rewards confidence without end in matches
    that are memorized; one that stops being right then has nearly all of the gradient (10^16 of it, in practice).
    """

    descriptors: int = 0
    descriptor_confidence_max: float | None = field(default=None, metadata={"legacy": None})

    kind = "pointmap"

    def problems(self) -> Iterator[Problem]:
        if self.descriptors < 0:
            yield Problem("descriptors", f"{self.descriptors}: 0 for none, or a number of channels (MASt3R: 24)")
        if self.descriptor_confidence_max is not None and self.descriptor_confidence_max <= 0:
            yield Problem("descriptor_confidence_max", f"{self.descriptor_confidence_max} must be positive, or null")

    def channels(self) -> dict[str, int]:
        """In the order of the published heads."""
        points = {"points": 3, "confidence": 1}
        return points | ({"descriptors": self.descriptors, "descriptor_confidence": 1} if self.descriptors else {})

    def build(self) -> PointMapOutput:
        return PointMapOutput(self.descriptor_confidence_max)


class PointMapOutput(nn.Module):
    """No parameters."""

    def __init__(self, descriptor_confidence_max: float | None) -> None:
        super().__init__()
        self.max_log_confidence = math.log(descriptor_confidence_max) if descriptor_confidence_max else math.inf

    def forward(self, dense: Dense, views: Views) -> PointMap:
        raw = {name: value.float() for name, value in dense.channels.items()}
        described = "descriptors" in raw
        return PointMap(
            points=exponential_points(raw["points"]),
            confidence=1 + raw["confidence"][..., 0].exp(),
            descriptors=F.normalize(raw["descriptors"], dim=-1) if described else None,
            descriptor_confidence=raw["descriptor_confidence"][..., 0].clamp(max=self.max_log_confidence).exp()
            if described
            else None,
        )
