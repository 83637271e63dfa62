"""Stores → a source of data at one image size: scenes by split, resized views kept in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from bench.data.cache import ByteCache, new_owner
from bench.data.scene import SceneData, Split
from bench.data.storage.store import Store

VIEWS: ByteCache[SceneData] = ByteCache(share=1 / 2)  # resized, so that small ones are decoded once


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
        self._owner = new_owner()

    def scenes(self, split: Split) -> Sequence[str]:
        return self.splits[split]

    def read(self, scene: str, views: Sequence[int]) -> SceneData:
        """Raises Broken."""
        single = [self._view(scene, view) for view in views]
        names = [each.name for each in fields(SceneData)]
        return SceneData(**{name: np.concatenate([getattr(data, name) for data in single]) for name in names})

    def camera_centers(self, scene: str) -> NDArray[np.float64]:
        """Raises Broken."""
        centers: NDArray[np.float64] = self.stores[scene].cameras(scene)[0][:, :3, 3]
        return centers

    def usable_views(self, scene: str) -> NDArray[np.int64]:
        """All of them. Raises Broken."""
        return np.arange(len(self.camera_centers(scene)))

    def _view(self, scene: str, view: int) -> SceneData:
        return VIEWS.get((self._owner, scene, view), lambda: self.stores[scene].read(scene, [view], self.image_size))
