"""L_m of eq. 6: mean squared error of the rendered against the true target images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from bench.data.batch import Batch
from bench.losses import LossSpec, Prediction, Term


@dataclass(frozen=True)
class Spec(LossSpec):
    over_views: ClassVar[bool] = True

    weight: float = 1.0

    def build(self, device: torch.device) -> Term:
        return mse


def mse(prediction: Prediction, batch: Batch) -> Float[Tensor, " batch"]:
    return (prediction.images - batch.targets).square().mean((1, 2, 3, 4))
