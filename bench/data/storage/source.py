"""Stores → a source of data at one image size: scenes by split, resized views kept in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bench.data.scene import SceneData, Split
from bench.data.storage.store import Store

MEMORY = 2**29  # bytes of resized views, so that small ones are decoded once
PIXEL = 20  # bytes: RGBA, depth, normal


class StoreSource:
    """A DataSource. `stores`: where each scene lies. Scenes known as broken are left out of the splits."""

    def __init__(
        self,
        name: str,
        version: str,
        stores: Mapping[str, Store],
        splits: Mapping[Split, Sequence[str]],
        image_size: int,
    ) -> None:
        self.name, self.version, self.stores, self.image_size = name, version, stores, image_size
        broken = {scene for store in set(stores.values()) for scene in store.broken()}
        self.splits = {split: [s for s in scenes if s not in broken] for split, scenes in splits.items()}
        self._view = lru_cache(max(1, MEMORY // (PIXEL * image_size**2)))(self._read_view)

    def scenes(self, split: Split) -> Sequence[str]:
        return self.splits[split]

    def read(self, scene: str, views: Sequence[int]) -> SceneData:
        """Raises Broken."""
        read = [self._view(scene, view) for view in views]
        return SceneData(
            images=np.concatenate([data.images for data in read]),
            depth=np.concatenate([data.depth for data in read]),
            normals=np.concatenate([data.normals for data in read]),
            camera_to_world=np.concatenate([data.camera_to_world for data in read]),
            field_of_view=np.concatenate([data.field_of_view for data in read]),
        )

    def camera_centers(self, scene: str) -> NDArray[np.float64]:
        """Raises Broken."""
        centers: NDArray[np.float64] = self.stores[scene].cameras(scene)[0][:, :3, 3]
        return centers

    def usable_views(self, scene: str) -> NDArray[np.int64]:
        """All of them. Raises Broken."""
        return np.arange(len(self.camera_centers(scene)))

    def _read_view(self, scene: str, view: int) -> SceneData:
        return self.stores[scene].read(scene, [view], self.image_size)
