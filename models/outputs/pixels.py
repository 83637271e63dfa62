"""The head's channels as an RGB image a view: what cross-view completion predicts (CroCo)."""

from __future__ import annotations

from dataclasses import dataclass

from einops import rearrange
from torch import nn

from models.parts import OutputSpec
from models.tensors import Dense, Pixels, Views


@dataclass(frozen=True)
class Spec(OutputSpec):
    kind = "pixels"

    def channels(self) -> dict[str, int]:
        return {"rgb": 3}

    def build(self) -> PixelsOutput:
        return PixelsOutput()


class PixelsOutput(nn.Module):
    """No parameters: 0 is mid-gray, so that an untrained head predicts a gray image."""

    def forward(self, dense: Dense, views: Views) -> Pixels:
        return Pixels(images=rearrange(dense.channels["rgb"].float() + 0.5, "b v h w rgb -> b v rgb h w"))
