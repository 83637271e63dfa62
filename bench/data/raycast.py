"""Triangles → color, depth and normals of one view, by embreex: means over the rays of a pixel that hit. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from numpy.typing import NDArray

from bench.data.scene import FIELD_OF_VIEW

SAMPLES = 2  # rays a pixel side
LAYERS = 16  # surfaces that a ray passes where their texture is transparent
LIGHT = np.array([0.45, 0.3, 0.84])  # towards the light, in the world


@dataclass(frozen=True)
class Hits:
    """Intersections of rays and triangles, one row for each ray that hits."""

    face: NDArray[np.int64]
    weights: NDArray[np.float64]  # (ray, 3) of the face's corners
    points: NDArray[np.float64]  # (ray, 3) in the world
    depth: NDArray[np.float64]  # along the optical axis
    normal: NDArray[np.float64]  # (ray, 3), the face's, towards the camera
    direction: NDArray[np.float32]  # (ray, 3), away from the camera


Paint = Callable[[Hits], NDArray[np.float64]]  # → (ray, 3) in [0, 1], shaded
Opaque = Callable[[Hits], NDArray[np.bool_]]  # → (ray,), whether the surface stops the ray


class Triangles:
    """A mesh to trace rays against: vertices (V, 3) in the world, faces (F, 3)."""

    def __init__(self, vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> None:
        self.vertices, self.faces = vertices, faces
        self.scene = EmbreeScene()
        TriangleMesh(self.scene, vertices.astype(np.float32), faces.astype(np.int32))

    def view(
        self, pose: NDArray[np.float64], size: int, paint: Paint, opaque: Opaque | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
        """RGBA (size, size, 4), depth (size, size) and world normals (size, size, 3) from a camera-to-world pose."""
        directions = (_rays(size) @ pose[:3, :3].T).astype(np.float32)
        hit, hits = self._cast(pose[:3, 3], directions, opaque)
        pixel, color = hit // SAMPLES**2, paint(hits)
        count = np.bincount(pixel, minlength=size * size)
        values = (*color.T, *hits.normal.T, hits.depth)
        sums = [np.bincount(pixel, weights=w, minlength=size * size) for w in values]
        means = np.stack(sums, -1) / np.maximum(count, 1)[:, None]
        length = np.maximum(np.linalg.norm(means[:, 3:6], axis=-1, keepdims=True), 1e-12)
        rgba = np.concatenate([np.clip(means[:, :3], 0, 1), count[:, None] / SAMPLES**2], -1)
        return (
            np.rint(rgba * 255).astype(np.uint8).reshape(size, size, 4),
            means[:, 6].astype(np.float32).reshape(size, size),
            (means[:, 3:6] / length).astype(np.float32).reshape(size, size, 3),
        )

    def _cast(
        self, center: NDArray[np.float64], directions: NDArray[np.float32], opaque: Opaque | None
    ) -> tuple[NDArray[np.int64], Hits]:
        """(indices of the rays that hit, ascending; their hits). A ray passes surfaces that are not opaque."""
        hit, hits = self._intersect(center, directions, np.arange(len(directions)), None)
        if opaque is None:
            return hit, hits
        rays, layers = [], []
        for _ in range(LAYERS):
            stops = opaque(hits)
            rays.append(hit[stops])
            layers.append(_select(hits, stops))
            if stops.all():
                break
            passing = ~stops
            hit, hits = self._intersect(center, directions, hit[passing], hits.depth[passing])
        order = np.argsort(np.concatenate(rays), kind="stable")
        joined = {name: np.concatenate([getattr(each, name) for each in layers])[order] for name in vars(hits)}
        return np.concatenate(rays)[order], Hits(**joined)

    def _intersect(
        self,
        center: NDArray[np.float64],
        directions: NDArray[np.float32],
        rays: NDArray[np.int64],
        behind: NDArray[np.float64] | None,
    ) -> tuple[NDArray[np.int64], Hits]:
        """(those of `rays` that hit a face; their hits), from the camera or from just behind the depths `behind`."""
        starts = np.zeros(len(rays)) if behind is None else behind * (1 + 1e-5)
        along = directions[rays]
        origins = (center + starts[:, None] * along).astype(np.float32)
        result: dict[str, Any] = self.scene.run(origins, along, query="INTERSECT", output=True)
        hit = np.flatnonzero(result["primID"] >= 0)
        face, along = result["primID"][hit], along[hit]
        depth = starts[hit] + result["tfar"][hit].astype(np.float64)  # rays have z = 1: distance is depth
        corners = self.vertices[self.faces[face]]
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
        normal *= np.where((normal * along).sum(-1, keepdims=True) > 0, -1, 1)
        u, v = result["u"][hit].astype(np.float64), result["v"][hit].astype(np.float64)
        points = center + depth[:, None] * along
        return rays[hit], Hits(face, np.stack([1 - u - v, u, v], -1), points, depth, normal, along)


def lit(color: NDArray[np.float64], normal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shade a surface color (ray, 3): one distant light and a uniform sky, the same from every camera."""
    shaded: NDArray[np.float64] = color * (0.65 + 0.35 * np.clip(normal @ LIGHT, -0.5, 1))[:, None]
    return shaded


def _select(hits: Hits, mask: NDArray[np.bool_]) -> Hits:
    return Hits(**{name: value[mask] for name, value in vars(hits).items()})


def _rays(size: int) -> NDArray[np.float64]:
    """(size² · SAMPLES², 3) directions in the camera's frame with z = 1; the samples of a pixel are adjacent."""
    focal = size / 2 / np.tan(FIELD_OF_VIEW / 2)
    sub = (np.arange(SAMPLES) + 0.5) / SAMPLES
    y, x, dy, dx = np.meshgrid(np.arange(size), np.arange(size), sub, sub, indexing="ij")
    flat = [((a + b - size / 2) / focal).ravel() for a, b in ((x, dx), (y, dy))]
    return np.stack([*flat, np.ones(len(flat[0]))], -1)
