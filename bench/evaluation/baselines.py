"""What needs no model: every table shows it, because PSNR on a plain background mostly rewards silhouettes.

`blank`, `nearest` and `mean` know what a model knows (and the target's camera); `flat` is an oracle, which sees the
target's true mask and colors, and marks how much of a score the silhouette alone is worth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from bench.data.batch import Batch
from bench.protocols import Protocol

Images = Float[Tensor, "batch target 3 height width"]


@dataclass(frozen=True)
class Baseline:
    """What a table calls it, and whether it sees the truth that it is compared with."""

    name: str
    label: str
    oracle: bool


@dataclass(frozen=True)
class ImageBaseline(Baseline):
    """`predict(batch, foreground alpha)` → the target views' images on the batch's background."""

    predict: Callable[[Batch, float], Images]


def blank(batch: Batch, _: float) -> Images:
    """Nothing but background."""
    return batch.background[..., None, None].expand_as(batch.targets)


def nearest(batch: Batch, _: float) -> Images:
    """The input image whose camera center lies nearest to the target's."""
    distance = torch.cdist(batch.target_cameras.centers, batch.input_cameras.centers)
    scenes = torch.arange(len(distance), device=distance.device)
    nearest_input = scenes[:, None], distance.argmin(-1)
    return _on_background(batch, batch.inputs.images[nearest_input], batch.input_alpha[nearest_input])


def mean(batch: Batch, _: float) -> Images:
    """The mean of the input images, for every target."""
    targets = batch.targets.shape[1]
    images = repeat(batch.inputs.images.mean(1), "b rgb h w -> b t rgb h w", t=targets)
    return _on_background(batch, images, repeat(batch.input_alpha.mean(1), "b h w -> b t h w", t=targets))


def flat(batch: Batch, alpha: float) -> Images:
    """Oracle: the target's mean color inside its true mask, background outside."""
    inside = (batch.target_alpha > alpha).to(batch.targets)
    count = inside.sum((-2, -1)).clamp(min=1)
    color = einsum(batch.targets, inside, "b t rgb h w, b t h w -> b t rgb") / count[..., None]
    inside = inside[:, :, None]
    outside = batch.background[..., None, None] * (1 - inside)
    return rearrange(color, "b t rgb -> b t rgb 1 1") * inside + outside


def _on_background(batch: Batch, on_white: Images, alpha: Float[Tensor, "batch target height width"]) -> Images:
    """Input images, which are on white, for comparison with targets on the batch's background."""
    return on_white + (batch.background[..., None, None] - 1) * (1 - alpha[:, :, None])


def baselines_of(protocol: Protocol) -> tuple[ImageBaseline, ...]:
    """The baselines that an evaluation under this protocol reports, in the order of tables."""
    return (
        ImageBaseline(protocol.background, f"{protocol.background} image", False, blank),
        ImageBaseline("nearest", "nearest input view", False, nearest),
        ImageBaseline("mean", "mean of the inputs", False, mean),
        ImageBaseline("flat", "flat mean color in the true mask (oracle)", True, flat),
    )
