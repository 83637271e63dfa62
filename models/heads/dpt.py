"""D as a DPT head: see models/dpt.py."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from models.dpt import DPTHead, DPTSpec
from models.tensors import TokenSpec


@dataclass(frozen=True)
class Spec(DPTSpec):
    """`initialization`: `torch`, PyTorch's defaults, as in the published code, with which the output's deviation over
    pixels starts at some 1 % of the tokens'; or `lecun`, what short trainings need (`initialize_lecun`).
    """

    initialization: Literal["torch", "lecun"] = field(default="torch", metadata={"legacy": "torch"})

    sizes = {scale: {**fields, "initialization": "lecun"} for scale, fields in DPTSpec.sizes.items()}

    def build(self, taps: Sequence[TokenSpec], channels: Mapping[str, int]) -> nn.Module:
        head = DPTHead(self, taps, channels)
        if self.initialization == "lecun":
            initialize_lecun(head)
        return head


def initialize_lecun(head: DPTHead) -> None:
    """Normal weights of variance 1 / fan-in (LeCun et al. 1998), a fifth of that deviation in the last layer."""
    for m in head.modules():
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d):
            taps = 1 if isinstance(m, nn.ConvTranspose2d) else math.prod(m.kernel_size)  # transposed: stride = kernel
            nn.init.normal_(m.weight, std=(0.2 if m is head.out else 1.0) * (m.in_channels * taps) ** -0.5)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
