"""CroCo's loss: the masked patches of the first view, completed from what is left of it and from the other views.

Mean squared error over the pixels of masked patches; with `normalize` of each patch's pixels minus their mean, divided
by their standard deviation. Source: Weinzaepfel et al. 2022, §3; naver/croco models/criterion.py (`MaskedMSE`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor

from bench.data.batch import Batch
from bench.losses import LossSpec, Prediction, Term
from bench.outputs import Capability


@dataclass(frozen=True)
class Spec(LossSpec):
    """`ratio` of the first view's patches is hidden from the model while it trains."""

    needs: ClassVar[frozenset[Capability]] = frozenset({"images"})

    weight: float = 1.0
    ratio: float = 0.9
    normalize: bool = True

    def build(self, device: torch.device) -> Term:
        def completion(prediction: Prediction, batch: Batch) -> Float[Tensor, " batch"]:
            return masked_error(
                prediction.reconstruction[:, 0], batch.inputs.images[:, 0], hidden(batch), self.normalize
            )

        return completion

    def patch_means(self, batch: Batch) -> Float[Tensor, "batch 3 height width"]:
        """The trivial completion of the first view: the mean of each patch, 0 where patches are normalized."""
        truth = batch.inputs.images[:, 0]
        if self.normalize:
            return torch.zeros_like(truth)
        rows, columns = hidden(batch).shape[1:]
        means = reduce(truth, "b c (r p) (k q) -> b r k", "mean", r=rows, k=columns)
        height, width = truth.shape[-2] // rows, truth.shape[-1] // columns
        return means.repeat_interleave(height, 1).repeat_interleave(width, 2)[:, None].expand_as(truth)

    def prepare(self, batch: Batch, *, patch: int, seed: int, step: int) -> Batch:
        """Hide patches of each scene's first view."""
        _, views, _, height, width = batch.inputs.images.shape
        rows, columns = height // patch, width // patch
        mask = torch.ones(len(batch.scenes), views, rows, columns, dtype=torch.bool)
        for i, scene in enumerate(batch.scenes):
            order = torch.randperm(rows * columns, generator=_generator(seed, step, scene))
            mask[i, 0].view(-1)[order[: round(self.ratio * rows * columns)]] = False
        return replace(batch, inputs=replace(batch.inputs, mask=mask.to(batch.inputs.images.device)))


def hidden(batch: Batch) -> Bool[Tensor, "batch rows cols"]:
    """The first view's masked patches; all pixels, one by one, where nothing is masked."""
    if batch.inputs.mask is not None:
        return ~batch.inputs.mask[:, 0]
    batch_size, _, _, height, width = batch.inputs.images.shape
    return torch.ones(batch_size, height, width, dtype=torch.bool, device=batch.inputs.images.device)


def masked_error(
    images: Float[Tensor, "batch 3 height width"],
    truth: Float[Tensor, "batch 3 height width"],
    mask: Bool[Tensor, "batch rows cols"],
    normalize: bool,
) -> Float[Tensor, " batch"]:
    """Mean squared error over the patches in the mask."""
    rows, columns = mask.shape[1:]
    images, truth = (rearrange(x, "b c (r p) (k q) -> b r k (c p q)", r=rows, k=columns) for x in (images, truth))
    if normalize and truth.shape[-1] > 3:
        truth = (truth - truth.mean(-1, keepdim=True)) / (truth.var(-1, keepdim=True) + 1e-6).sqrt()
    error = (images - truth).square().mean(-1)
    weight = mask.to(error)
    return (error * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1)


def _generator(seed: int, step: int, scene: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{step}/{scene}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
