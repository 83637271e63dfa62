"""DUSt3R's loss: scale-normalized distance of surface points, weighted by their confidence.

confidence · ‖X/z − X̄/z̄‖ − alpha · log confidence, averaged over the foreground pixels of all views of a scene. X are
predicted and X̄ true points in the first view's camera; z and z̄ are their mean distances from it. Source: Wang et al.
2024, eq. 2–4; naver/dust3r dust3r/losses.py (`ConfLoss(Regr3D(L21, norm_mode='avg_dis'), alpha=0.2)`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from bench.data.batch import Batch
from bench.losses import LossSpec, Prediction, Term
from bench.outputs import Capability


@dataclass(frozen=True)
class Spec(LossSpec):
    needs: ClassVar[frozenset[Capability]] = frozenset({"surface_points", "confidence"})

    weight: float = 1.0
    alpha: float = 0.2

    def build(self, device: torch.device) -> Term:
        return partial(confidence_points, alpha=self.alpha)


def confidence_points(prediction: Prediction, batch: Batch, alpha: float) -> Float[Tensor, " batch"]:
    mask = batch.input_mask.to(prediction.points)
    predicted, true = (_normalized(points, batch, mask) for points in (prediction.points, batch.input_points))
    confidence = prediction.confidence
    error = confidence * _length(predicted - true) - alpha * confidence.log()
    return (error * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3)).clamp(min=1)


def _normalized(
    points: Float[Tensor, "batch view height width 3"], batch: Batch, mask: Float[Tensor, "batch view height width"]
) -> Float[Tensor, "batch view height width 3"]:
    """In the first view's camera, divided by the mean distance of the foreground's points from it."""
    camera = batch.input_cameras.world_to_camera[:, 0]
    local = torch.einsum("bij,bvhwj->bvhwi", camera[:, :3, :3], points) + camera[:, None, None, None, :3, 3]
    mean = (_length(local) * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3)).clamp(min=1)
    return local / mean.clamp(min=1e-6)[:, None, None, None, None]


def _length(vectors: Float[Tensor, "*shape 3"]) -> Float[Tensor, "*shape"]:
    """With a finite gradient at 0."""
    return (vectors.square().sum(-1) + 1e-12).sqrt()
