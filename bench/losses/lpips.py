"""L_l of eq. 6: LPIPS (Zhang et al. 2018) of rendered and true target images, with its trained backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from bench.data.batch import Batch
from bench.losses import LossSpec, Prediction, Term
from bench.runtime.lpips_weights import lpips_model
from bench.runtime.shapes import to_device


@dataclass(frozen=True)
class Spec(LossSpec):
    weight: float = 0.05
    net: Literal["vgg", "alex"] = "vgg"

    sizes = {"tiny": {"net": "alex"}}

    def build(self, device: torch.device) -> Term:
        """Raises UserError when the backbone has not been set up."""
        model = to_device(lpips_model(self.net), device)

        def lpips(prediction: Prediction, batch: Batch) -> Float[Tensor, " batch"]:
            rendered, true = prediction.images.flatten(0, 1), batch.targets.flatten(0, 1)
            distance: Tensor = model(rendered * 2 - 1, true * 2 - 1)
            return distance.reshape(batch.targets.shape[:2]).mean(1)

        return lpips
