"""The interface of data sources: the views of one scene, as G-Objaverse has them. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Split = Literal["training", "validation", "evaluation"]
SPLITS: tuple[Split, ...] = ("training", "validation", "evaluation")

VIEWS = 40  # 0–24 ring 1 (24 repeats 0), 25 top, 26 bottom, 27–39 ring 2 (39 repeats 27)
RING_1 = tuple(range(24))
LARA_VIEWS = (*range(25), *range(27, 40))  # the 38 that LaRa and the paper use
DISTINCT_VIEWS = len(LARA_VIEWS) - 2  # the last of each ring repeats its first
REPEATED = 1e-3  # cameras closer than this are one
FIELD_OF_VIEW = 0.691150367  # radians, both axes


@dataclass(frozen=True)
class SceneData:
    """Some views of one scene. World: z up, the object's box centered, its longest side 0.9."""

    images: NDArray[np.uint8]  # (view, height, width, 4), RGBA with straight alpha
    depth: NDArray[np.float32]  # (view, height, width), along the optical axis, 0 where nothing is
    normals: NDArray[np.float32]  # (view, height, width, 3), in the world; 0 where nothing is
    camera_to_world: NDArray[np.float64]  # (view, 4, 4), OpenCV axes
    field_of_view: NDArray[np.float64]  # (view,), horizontal, radians

    @property
    def intrinsics(self) -> NDArray[np.float64]:
        """(view, 3, 3) in pixels, principal point at the center, square pixels."""
        height, width = self.images.shape[1:3]
        matrix = np.zeros((len(self.images), 3, 3))
        matrix[:, 0, 0] = matrix[:, 1, 1] = width / 2 / np.tan(self.field_of_view / 2)
        matrix[:, 0, 2], matrix[:, 1, 2], matrix[:, 2, 2] = width / 2, height / 2, 1
        return matrix


@runtime_checkable
class DataSource(Protocol):
    """A data set, opened: scenes by split, views by scene."""

    name: str
    version: str

    def scenes(self, split: Split) -> Sequence[str]:
        """Scene ids of a split; no id is in two."""
        ...

    def read(self, scene: str, views: Sequence[int]) -> SceneData:
        """These views of a scene, in this order. Raises bench.data.storage.store.Broken for one that cannot be used."""
        ...

    def camera_centers(self, scene: str) -> NDArray[np.float64]:
        """(view, 3) in the world, of all views of the scene, for view selection. Raises Broken."""
        ...

    def usable_views(self, scene: str) -> NDArray[np.int64]:
        """The views that may be chosen, ascending: the data set's own rule. Raises Broken."""
        ...


def is_gobjaverse(centers: NDArray[np.float64]) -> bool:
    """Whether a scene's cameras (view, 3) are G-Objaverse's: 40, of which the last of each ring repeats its first."""
    return len(centers) == VIEWS and bool(np.abs(centers[[24, 39]] - centers[[0, 27]]).max() < REPEATED)


def distinct_views(source: DataSource, scene: str) -> int:
    """How many of a scene's usable views no other one repeats. Raises Broken."""
    centers = source.camera_centers(scene)[source.usable_views(scene)]
    near = np.linalg.norm(centers[:, None] - centers, axis=-1) < REPEATED
    return int((near.argmax(1) == np.arange(len(centers))).sum())


def look_at(center: NDArray[np.float64]) -> NDArray[np.float64]:
    """Camera-to-world (4, 4) of a camera at `center` looking at the origin, right axis horizontal (G-Objaverse)."""
    forward = -center / np.linalg.norm(center)
    azimuth = np.arctan2(center[1], center[0]) if np.hypot(center[0], center[1]) > 1e-9 else 0.0
    right = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
    pose = np.eye(4)
    pose[:3, :4] = np.stack([right, np.cross(forward, right), forward, center], axis=1)
    return pose


def gobjaverse_cameras(radii: tuple[float, float], elevations: tuple[float, float]) -> NDArray[np.float64]:
    """(VIEWS, 4, 4) camera-to-world: ring 1 every 15°, top and bottom, ring 2 every 30°; elevations in radians."""

    def ring(count: int, radius: float, elevation: float) -> list[NDArray[np.float64]]:
        azimuths = 2 * np.pi * (np.arange(count + 1) % count) / count
        flat = radius * np.cos(elevation)
        return [np.array([flat * np.cos(a), flat * np.sin(a), radius * np.sin(elevation)]) for a in azimuths]

    poles = [np.array([0.0, 0.0, radii[0]]), np.array([0.0, 0.0, -radii[0]])]
    centers = ring(24, radii[0], elevations[0]) + poles + ring(12, radii[1], elevations[1])
    return np.stack([look_at(center) for center in centers])
