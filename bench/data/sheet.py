"""A contact sheet: some views of some scenes, one scene a row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.data.scene import DataSource, Split

SHOWN = (0, 3, 6, 9, 12, 15, 18, 21, 25, 27, 33)


def sheet(source: DataSource, split: Split, scenes: int, zoom: int = 1) -> NDArray[np.uint8]:
    """(height, width, 3): views SHOWN of the first scenes on white, each pixel `zoom` × `zoom`."""
    rows = [_row(source, scene, SHOWN) for scene in source.scenes(split)[:scenes]]
    return np.concatenate(rows).repeat(zoom, 0).repeat(zoom, 1)


def write(path: Path, image: NDArray[np.uint8]) -> None:
    """As PNG."""
    from matplotlib.image import imsave

    path.parent.mkdir(parents=True, exist_ok=True)
    imsave(path, image)


def _row(source: DataSource, scene: str, views: Sequence[int]) -> NDArray[np.uint8]:
    rgba = source.read(scene, views).images.astype(np.float32)
    alpha = rgba[..., 3:] / 255
    rgb = rgba[..., :3] * alpha + 255 * (1 - alpha)
    return np.concatenate(list(np.rint(rgb).astype(np.uint8)), axis=1)
