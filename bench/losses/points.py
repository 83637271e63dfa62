"""L_3D of eq. 6: squared distance of each pixel's surface point (of a Gaussian: its mean) to the true one.

Reduction and masking are open in the paper; here the mean over foreground pixels of ‖Δ‖², in the frame's unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from bench.data.batch import Batch
from bench.losses import LossSpec, Prediction, Term
from bench.outputs import Capability


@dataclass(frozen=True)
class Spec(LossSpec):
    needs: ClassVar[frozenset[Capability]] = frozenset({"surface_points"})

    weight: float = 10.0

    def build(self, device: torch.device) -> Term:
        return points


def points(prediction: Prediction, batch: Batch) -> Float[Tensor, " batch"]:
    squared = (prediction.points - batch.input_points).square().sum(-1)
    mask = batch.input_mask.to(squared)
    return (squared * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3)).clamp(min=1)
