"""Procedural scenes after Zeroverse (LRM-Zero): composed, bumped and cut primitives with solid textures, ray-cast.

A scene depends on (version, seed, split, index) alone. No torch here: worker processes start fast.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bench.data import raycast
from bench.data.procedural import shapes, textures
from bench.data.scene import (
    FIELD_OF_VIEW,
    SPLITS,
    VIEWS,
    SceneData,
    Split,
    gobjaverse_cameras,
)

VERSION = "1"
LONGEST_SIDE = 0.9


def generate(seed: int, split: Split, index: int, image_size: int) -> SceneData:
    """All 40 views of a scene, `image_size` pixels a side."""
    random = np.random.default_rng([int(VERSION), seed, SPLITS.index(split), index])
    meshes, paints = _compose(random)
    vertices, faces = shapes.join(meshes)
    part = np.repeat(np.arange(len(meshes)), [len(f) for _, f in meshes])
    low, high = vertices.min(0), vertices.max(0)
    vertices = (vertices - (low + high) / 2) * (LONGEST_SIDE / (high - low).max())
    radii, elevations = random.uniform(1.6, 2.0, 2), np.radians([random.uniform(5, 30), random.uniform(-5, 5)])
    poses = gobjaverse_cameras((radii[0], radii[1]), (elevations[0], elevations[1]))
    triangles, paint = raycast.Triangles(vertices, faces), _painter(part, paints)
    views = [triangles.view(pose, image_size, paint) for pose in poses]
    images, depth, normals = (np.stack(arrays) for arrays in zip(*views, strict=True))
    return SceneData(images, depth, normals, poses, np.full(VIEWS, FIELD_OF_VIEW))


Paint = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def _compose(random: np.random.Generator) -> tuple[list[shapes.Mesh], list[Paint]]:
    """1–9 parts, later ones smaller and touching an earlier one."""
    meshes: list[shapes.Mesh] = []
    paints: list[Paint] = []
    for i in range(int(random.integers(1, 10))):
        vertices, faces = shapes.PRIMITIVES[random.choice(len(shapes.PRIMITIVES), p=shapes.SHARES)](random)
        if random.uniform() < 0.35:
            vertices = shapes.bump(vertices, random)
        if random.uniform() < 0.3:
            vertices = shapes.cut(vertices, random)
        size = random.uniform(0.35, 1.0, 3) * (1.0 if i == 0 else random.uniform(0.35, 0.8))
        if random.uniform() < 0.2:  # a thin part
            size[random.integers(3)] *= 0.15
        vertices = (vertices * size) @ shapes.rotation(random).T
        if meshes:
            anchor = meshes[random.integers(len(meshes))][0]
            vertices = vertices + anchor[random.integers(len(anchor))]
        meshes.append((vertices, faces))
        paints.append(textures.texture(random))
    return meshes, paints


def _painter(part: NDArray[np.int64], paints: list[Paint]) -> raycast.Paint:
    """Each part in its texture, lit."""

    def paint(hits: raycast.Hits) -> NDArray[np.float64]:
        color = np.empty((len(hits.face), 3))
        for i, texture in enumerate(paints):
            of_part = part[hits.face] == i
            color[of_part] = texture(hits.points[of_part])
        return raycast.lit(color, hits.normal)

    return paint
