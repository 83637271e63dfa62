"""What needs no model: every table shows it, because PSNR on white mostly rewards silhouettes.

`white`, `nearest` and `mean` know what a model knows (and the target's camera); `flat` is an oracle, which sees the
target's true mask and colours, and marks how much of a score the silhouette alone is worth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from bench.data.batch import Batch

Images = Float[Tensor, "batch target 3 height width"]


@dataclass(frozen=True)
class Baseline:
    """`predict(batch, foreground alpha)` → the target views' images on white."""

    name: str
    label: str
    oracle: bool
    predict: Callable[[Batch, float], Images]


def white(batch: Batch, _: float) -> Images:
    return torch.ones_like(batch.targets)


def nearest(batch: Batch, _: float) -> Images:
    """The input image whose camera centre lies nearest to the target's."""
    distance = torch.cdist(batch.target_cameras.centres, batch.input_cameras.centres)
    scenes = torch.arange(len(distance), device=distance.device)
    return batch.inputs.images[scenes[:, None], distance.argmin(-1)]


def mean(batch: Batch, _: float) -> Images:
    """The mean of the input images, for every target."""
    return repeat(batch.inputs.images.mean(1), "b rgb h w -> b t rgb h w", t=batch.targets.shape[1])


def flat(batch: Batch, alpha: float) -> Images:
    """Oracle: the target's mean colour inside its true mask, white outside."""
    inside = (batch.target_alpha > alpha).to(batch.targets)
    count = inside.sum((-2, -1)).clamp(min=1)
    colour = einsum(batch.targets, inside, "b t rgb h w, b t h w -> b t rgb") / count[..., None]
    inside = inside[:, :, None]
    return rearrange(colour, "b t rgb -> b t rgb 1 1") * inside + (1 - inside)


BASELINES = (
    Baseline("white", "white image", False, white),
    Baseline("nearest", "nearest input view", False, nearest),
    Baseline("mean", "mean of the inputs", False, mean),
    Baseline("flat", "flat mean colour in the true mask (oracle)", True, flat),
)
