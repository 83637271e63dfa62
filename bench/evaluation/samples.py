"""samples/evaluation.npz: images and depths of the first evaluation scenes, for the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from bench import outputs
from bench.data.batch import Batch
from bench.evaluation import metrics
from bench.rendering import Rendering

SCENES = 4
FOLDER, FILE = "samples", "evaluation.npz"


@torch.no_grad()
def samples_of(batch: Batch, output: object, rendering: Rendering, count: int) -> list[dict[str, Any]]:
    """Of the first `count` scenes: inputs, truth, renderings; depth and foreground of the first input view.

    Where no surface point belongs to a pixel, as in planes, the depth is rendered.
    """
    kind = outputs.of(output)
    points = kind.surface_points(output)
    true_depth = metrics.first_view_depth(batch.input_points, batch)
    if points is None:
        cameras = batch.input_cameras
        first = replace(cameras, world_to_camera=cameras.world_to_camera[:, :1], intrinsics=cameras.intrinsics[:, :1])
        rendered = kind.render(output, first, batch.background[:, :1])
        assert rendered is not None, "an output has surface points or is rendered"
        depth = rendered.depth[:, 0]
    else:
        depth = metrics.first_view_depth(points, batch)
    return [
        {
            "scene": batch.scenes[i],
            "inputs": pixels(batch.inputs.images[i]),
            "truth": pixels(batch.targets[i]),
            "rendered": pixels(rendering.rgb[i]),
            "depth": depth[i].float().cpu().numpy(),
            "true_depth": true_depth[i].float().cpu().numpy(),
            "mask": batch.input_mask[i, 0].cpu().numpy(),
        }
        for i in range(min(count, len(batch.scenes)))
    ]


def pixels(images: Float[Tensor, "view 3 height width"]) -> NDArray[np.uint8]:
    """In [0, 1] → (view, height, width, 3) in 0…255."""
    values: NDArray[np.uint8] = (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return values


def save(folder: Path, samples: Sequence[Mapping[str, Any]]) -> None:
    """All scenes in one npz."""
    folder.mkdir(parents=True, exist_ok=True)
    stacked = {key: np.stack([np.asarray(sample[key]) for sample in samples]) for key in samples[0]}
    np.savez_compressed(folder / FILE, **stacked)  # type: ignore[arg-type]
