"""L_l of eq. 6: LPIPS (Zhang et al. 2018) of rendered and true target images, with its trained backbone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from bench.data.batch import Batch
from bench.losses import LossSpec, Prediction, Term
from bench.runtime.lpips_weights import LEAST_PIXELS, lpips_model
from bench.runtime.shapes import to_device
from models.ead import EADSpec
from models.parts import Problem


@dataclass(frozen=True)
class Spec(LossSpec):
    """`every`: the term is computed in every k-th step, with k times its weight; the mean over steps is the same."""

    over_views: ClassVar[bool] = True

    weight: float = 0.05
    net: Literal["vgg", "alex"] = "vgg"
    every: int = field(default=1, metadata={"legacy": 1})

    sizes = {"tiny": {"net": "alex"}, "small": {"net": "alex"}}

    def weight_at(self, step: int) -> float:
        return self.weight * self.every if step % self.every == 0 else 0.0

    def problems(self, model: EADSpec) -> Iterator[Problem]:
        yield from super().problems(model)
        if self.every < 1:
            yield Problem("every", f"{self.every} is too small: at least 1")
        if model.image_size < (least := LEAST_PIXELS[self.net]):
            yield Problem("net", f"{self.net} needs images of at least {least} px, these have {model.image_size}")

    def build(self, device: torch.device) -> Term:
        """Raises UserError when the backbone has not been set up."""
        model = to_device(lpips_model(self.net), device)

        def lpips(prediction: Prediction, batch: Batch) -> Float[Tensor, " batch"]:
            rendered, true = prediction.images.flatten(0, 1), batch.targets.flatten(0, 1)
            distance: Tensor = model(rendered * 2 - 1, true * 2 - 1)
            return distance.reshape(batch.targets.shape[:2]).mean(1)

        return lpips
