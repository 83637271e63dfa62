"""The head's channels as DUSt3R's pointmap: points in the first view's frame and their confidence, for MASt3R with
descriptors.

Source: naver/dust3r dust3r/heads/postprocess.py, naver/mast3r mast3r/catmlp_dpt_head.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from models.layers import exponential_points
from models.parts import OutputSpec, Problem
from models.tensors import Dense, PointMap, Views


@dataclass(frozen=True)
class Spec(OutputSpec):
    """`descriptors`: channels of MASt3R's descriptors, 0 for none (MASt3R has 24)."""

    descriptors: int = 0

    kind = "pointmap"

    def problems(self) -> Iterator[Problem]:
        if self.descriptors < 0:
            yield Problem("descriptors", f"{self.descriptors}: 0 for none, or a number of channels (MASt3R: 24)")

    def channels(self) -> dict[str, int]:
        """In the order of the published heads."""
        points = {"points": 3, "confidence": 1}
        return points | ({"descriptors": self.descriptors, "descriptor_confidence": 1} if self.descriptors else {})

    def build(self) -> PointMapOutput:
        return PointMapOutput()


class PointMapOutput(nn.Module):
    """No parameters."""

    def forward(self, dense: Dense, views: Views) -> PointMap:
        raw = {name: value.float() for name, value in dense.channels.items()}
        described = "descriptors" in raw
        return PointMap(
            points=exponential_points(raw["points"]),
            confidence=1 + raw["confidence"][..., 0].exp(),
            descriptors=F.normalize(raw["descriptors"], dim=-1) if described else None,
            descriptor_confidence=raw["descriptor_confidence"][..., 0].exp() if described else None,
        )
