"""MASt3R's matching loss: descriptors of corresponding pixels agree, those of other pixels do not (InfoNCE).

The first view is matched with each other view. Correspondences are pixels whose true surface points coincide. Per match
the cross-entropies over both views' matches are added, then weighted by confidence: c · loss − alpha · log c with c the
mean confidence of the two pixels. Source: Leroy et al. 2024, eq. 10; naver/mast3r mast3r/losses.py
(`0.075 * ConfMatchingLoss(MatchingLoss(InfoNCE(temperature=0.05)), alpha=10, confmode='mean')`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from bench.common.compat import shapes_only
from bench.data.batch import Batch
from bench.losses import LossSpec, Prediction, Term
from bench.outputs import Capability


@dataclass(frozen=True)
class Spec(LossSpec):
    """`matches`: at most so many of a pair of views, evenly spaced. `tolerance`: of the distance of two surface points
    that are one, relative to their distance from the camera."""

    needs: ClassVar[frozenset[Capability]] = frozenset({"descriptors"})

    weight: float = 0.075
    temperature: float = 0.05
    alpha: float = 10.0
    matches: int = 1024
    tolerance: float = 0.02

    def build(self, device: torch.device) -> Term:
        def matching(prediction: Prediction, batch: Batch) -> Float[Tensor, " batch"]:
            descriptors, confidence = prediction.descriptors
            return torch.stack([self._scene(descriptors[i], confidence[i], batch, i) for i in range(len(descriptors))])

        return matching

    def _scene(
        self,
        descriptors: Float[Tensor, "view height width descriptor"],
        confidence: Float[Tensor, "view height width"],
        batch: Batch,
        scene: int,
    ) -> Float[Tensor, ""]:
        """Mean over all matches of the first view with the others; 0 where there are none."""
        losses = [descriptors.new_zeros(0)]
        for view in range(1, len(descriptors)):
            first, other = correspondences(batch, scene, view, self.tolerance)
            stride = max(1, -(-len(first) // self.matches))
            first, other = first[::stride], other[::stride]
            if len(first) == 0:
                continue
            a, b = descriptors[0].flatten(0, 1)[first], descriptors[view].flatten(0, 1)[other]
            logits, labels = a @ b.T / self.temperature, torch.arange(len(a), device=a.device)
            loss = sum(F.cross_entropy(x, labels, reduction="none") for x in (logits, logits.T))
            weight = (confidence[0].flatten()[first] + confidence[view].flatten()[other]) / 2
            losses.append(weight * loss - self.alpha * weight.log())
        values = torch.cat(losses)
        return values.mean() if len(values) else descriptors.sum() * 0


@torch.no_grad()
def correspondences(
    batch: Batch, scene: int, view: int, tolerance: float
) -> tuple[Int[Tensor, " match"], Int[Tensor, " match"]]:
    """Pixels, flat, of the first view and the pixels of `view` that show the same surface point."""
    points, mask = batch.input_points[scene], batch.input_mask[scene]
    height, width = mask.shape[1:]
    if shapes_only():  # how many match depends on values: at most all do
        every = torch.arange(height * width, device=mask.device)
        return every, every
    camera = batch.input_cameras.world_to_camera[scene, view]
    first = mask[0].flatten().nonzero()[:, 0]
    source = points[0].flatten(0, 1)[first]
    local = source @ camera[:3, :3].T + camera[:3, 3]
    projected = local @ batch.input_cameras.intrinsics[scene, view].T
    x, y = (projected[:, :2] / projected[:, 2:].clamp(min=1e-6)).floor().long().unbind(-1)
    inside = (local[:, 2] > 0) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    other = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    distance = (points[view].flatten(0, 1)[other] - source).norm(dim=-1)
    is_same = inside & mask[view].flatten()[other] & (distance < tolerance * local[:, 2])
    return first[is_same], other[is_same]
