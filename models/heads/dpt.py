"""D as a DPT head: see models/dpt.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from models.dpt import DPTHead, DPTSpec
from models.tensors import TokenSpec


@dataclass(frozen=True)
class Spec(DPTSpec):
    sizes = {scale: {**fields, "initialization": "lecun"} for scale, fields in DPTSpec.sizes.items()}

    def build(self, taps: Sequence[TokenSpec], channels: Mapping[str, int]) -> nn.Module:
        return DPTHead(self, taps, channels)
