"""Procedural scenes after Zeroverse (LRM-Zero): composed, bumped and cut primitives with solid textures, ray-cast.

A scene depends on (version, seed, split, index) alone. No torch here: worker processes start fast.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from numpy.typing import NDArray

from bench.data import shapes, textures
from bench.data.scene import FIELD_OF_VIEW, SPLITS, VIEWS, SceneData, Split, gobjaverse_cameras

VERSION = "1"
LONGEST_SIDE = 0.9
SAMPLES = 2  # rays a pixel side
LIGHT = np.array([0.45, 0.3, 0.84])  # towards the light, in the world


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
    scene = EmbreeScene()
    TriangleMesh(scene, vertices.astype(np.float32), faces.astype(np.int32))
    views = [_view(scene, vertices, faces, part, paints, pose, image_size) for pose in poses]
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


def _view(
    scene: EmbreeScene,
    vertices: NDArray[np.float64],
    faces: NDArray[np.int64],
    part: NDArray[np.int64],
    paints: list[Paint],
    pose: NDArray[np.float64],
    size: int,
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """RGBA, depth and normals of one view: means over the rays of a pixel that hit."""
    rays = _rays(size)
    directions = (rays @ pose[:3, :3].T).astype(np.float32)
    origins = np.broadcast_to(pose[:3, 3].astype(np.float32), directions.shape).copy()
    found = scene.run(origins, directions, query="INTERSECT", output=True)
    hit = np.flatnonzero(found["primID"] >= 0)
    face, z = found["primID"][hit], found["tfar"][hit].astype(np.float64)  # rays have z = 1: distance is depth
    points = pose[:3, 3] + z[:, None] * directions[hit]
    corners = vertices[faces[face]]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
    normal *= np.where((normal * directions[hit]).sum(-1, keepdims=True) > 0, -1, 1)  # towards the camera
    colour = np.empty((len(hit), 3))
    for i, paint in enumerate(paints):
        of_part = part[face] == i
        colour[of_part] = paint(points[of_part])
    colour *= (0.65 + 0.35 * np.clip(normal @ LIGHT, -0.5, 1))[:, None]
    pixel = hit // SAMPLES**2
    count = np.bincount(pixel, minlength=size * size)
    sums = [np.bincount(pixel, weights=w, minlength=size * size) for w in (*colour.T, *normal.T, z)]
    means = np.stack(sums, -1) / np.maximum(count, 1)[:, None]
    length = np.maximum(np.linalg.norm(means[:, 3:6], axis=-1, keepdims=True), 1e-12)
    rgba = np.concatenate([np.clip(means[:, :3], 0, 1), count[:, None] / SAMPLES**2], -1)
    return (
        np.rint(rgba * 255).astype(np.uint8).reshape(size, size, 4),
        means[:, 6].astype(np.float32).reshape(size, size),
        (means[:, 3:6] / length).astype(np.float32).reshape(size, size, 3),
    )


def _rays(size: int) -> NDArray[np.float64]:
    """(size² · SAMPLES², 3) directions in the camera's frame with z = 1, the samples of a pixel together."""
    focal = size / 2 / np.tan(FIELD_OF_VIEW / 2)
    sub = (np.arange(SAMPLES) + 0.5) / SAMPLES
    y, x, dy, dx = np.meshgrid(np.arange(size), np.arange(size), sub, sub, indexing="ij")
    flat = [((a + b - size / 2) / focal).ravel() for a, b in ((x, dx), (y, dy))]
    return np.stack([*flat, np.ones(len(flat[0]))], -1)
