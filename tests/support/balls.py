"""An analytic data source for tests: one ball a scene, colored by its normal; exact depth without a ray caster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.data.scene import (
    FIELD_OF_VIEW,
    LARA_VIEWS,
    SceneData,
    Split,
    gobjaverse_cameras,
)

POSES = gobjaverse_cameras((1.6, 1.5), (0.3, -0.2))


@dataclass
class Balls:
    """Scene i of a split is a ball of radius 0.4 − 0.02 i."""

    size: int = 32
    count: int = 4

    name = "balls"
    version = "1"

    def scenes(self, split: Split) -> Sequence[str]:
        return [f"{split}/{i}" for i in range(self.count)]

    def camera_centers(self, scene: str) -> NDArray[np.float64]:
        return POSES[:, :3, 3]

    def usable_views(self, scene: str) -> NDArray[np.int64]:
        return np.array(LARA_VIEWS)

    def read(self, scene: str, views: Sequence[int]) -> SceneData:
        poses, radius = POSES[list(views)], 0.4 - 0.02 * int(scene[-1])
        pixels = (np.arange(self.size) + 0.5 - self.size / 2) * 2 * np.tan(FIELD_OF_VIEW / 2) / self.size
        x, y = np.meshgrid(pixels, pixels)
        rays = np.stack([x, y, np.ones_like(x)], -1) @ poses[:, None, :3, :3].transpose(0, 1, 3, 2)
        center = poses[:, None, None, :3, 3]
        a, b, c = (rays**2).sum(-1), (rays * center).sum(-1), (center**2).sum(-1) - radius**2
        hit = b**2 - a * c > 0
        depth = np.where(hit, (-b - np.sqrt(np.maximum(b**2 - a * c, 0))) / a, 0)
        normals = np.where(hit[..., None], (center + depth[..., None] * rays) / radius, 0)
        rgba = np.concatenate([127 + 120 * normals, 255.0 * hit[..., None]], -1).astype(np.uint8)
        view = np.full(len(poses), FIELD_OF_VIEW)
        return SceneData(rgba, depth.astype(np.float32), normals.astype(np.float32), poses, view)
