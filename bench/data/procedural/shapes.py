"""Primitives of procedural scenes, as closed triangle meshes: vertices (n, 3) and faces (m, 3), inside [−1, 1]³."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Mesh = tuple[Points, NDArray[np.int64]]
Random = np.random.Generator


def _grid(rows: int, cols: int, closed: bool) -> NDArray[np.int64]:
    """Faces of a rows × cols grid of vertices whose columns wrap round; rows wrap too when `closed`."""
    r, c = np.meshgrid(np.arange(rows if closed else rows - 1), np.arange(cols), indexing="ij")
    below, right = (r + 1) % rows, (c + 1) % cols
    a, b, d, e = r * cols + c, r * cols + right, below * cols + c, below * cols + right
    return np.concatenate([np.stack([a, d, b], -1).reshape(-1, 3), np.stack([b, d, e], -1).reshape(-1, 3)])


def _revolve(profile: Points, segments: int = 40, sides: bool = False) -> Mesh:
    """A profile (k, 2) of (radius, z) turned about z; `sides` squares the turn."""
    angles = 2 * np.pi * np.arange(segments) / segments
    circle = np.stack([np.cos(angles), np.sin(angles)], -1)
    if sides:
        circle = circle / np.abs(circle).max(-1, keepdims=True)
    ring = profile[:, None, :1] * circle[None]
    z = np.broadcast_to(profile[:, None, 1:], (len(profile), segments, 1))
    return np.concatenate([ring, z], -1).reshape(-1, 3), _grid(len(profile), segments, closed=False)


def _polyline(*corners: tuple[float, float], step: float = 0.12) -> Points:
    """Corners joined by points at most `step` apart, so that bumps have vertices to move."""
    points = [np.array(corners[:1], dtype=float)]
    for start, end in pairwise(corners):
        count = max(1, int(np.ceil(np.hypot(end[0] - start[0], end[1] - start[1]) / step)))
        points.append(np.linspace(start, end, count + 1)[1:])
    return np.concatenate(points)


def ellipsoid(random: Random) -> Mesh:
    angle = np.linspace(-np.pi / 2, np.pi / 2, 22)
    return _revolve(np.stack([np.cos(angle), np.sin(angle)], -1))


def box(random: Random) -> Mesh:
    return _revolve(_polyline((0, -1), (1, -1), (1, 1), (0, 1)), sides=True)


def cylinder(random: Random) -> Mesh:
    return _revolve(_polyline((0, -1), (1, -1), (1, 1), (0, 1)))


def cone(random: Random) -> Mesh:
    top = float(random.uniform(0.0, 0.5))
    return _revolve(_polyline((0, -1), (1, -1), (top, 1), (0, 1)))


def torus(random: Random) -> Mesh:
    tube = random.uniform(0.15, 0.4)
    turn = 2 * np.pi * np.arange(20) / 20
    profile = np.stack([1 - tube + tube * np.cos(turn), tube * np.sin(turn)], -1)
    vertices, _ = _revolve(profile)
    return vertices, _grid(20, 40, closed=True)


def vase(random: Random) -> Mesh:
    z = np.linspace(-1, 1, 24)
    waves = sum(random.uniform(-0.3, 0.3) * np.cos(k * np.pi * z / 2 + random.uniform(0, 6)) for k in (1, 2, 3))
    radius = np.clip(0.55 + waves, 0.12, 1.0)
    profile = np.stack([radius, z], -1)
    return _revolve(np.concatenate([[[0.0, -1.0]], profile, [[0.0, 1.0]]]))


def frame(random: Random) -> Mesh:
    """The twelve edges of a box as thin bars."""
    bar, meshes = random.uniform(0.05, 0.12), []
    for axis in range(3):
        for u in (-1, 1):
            for v in (-1, 1):
                vertices, faces = box(random)
                vertices = vertices * bar
                vertices[:, 2] /= bar
                vertices = np.roll(vertices, axis + 1, axis=1)
                offset = np.roll(np.array([u * (1 - bar), v * (1 - bar), 0.0]), axis + 1)
                meshes.append((vertices + offset, faces))
    return join(meshes)


PRIMITIVES: tuple[Callable[[Random], Mesh], ...] = (ellipsoid, box, cylinder, cone, torus, vase, frame)
SHARES = (0.2, 0.2, 0.16, 0.12, 0.12, 0.14, 0.06)


def join(meshes: list[Mesh]) -> Mesh:
    """Several meshes as one."""
    starts = np.cumsum([0] + [len(vertices) for vertices, _ in meshes[:-1]])
    faces = [faces + start for (_, faces), start in zip(meshes, starts, strict=True)]
    return np.concatenate([vertices for vertices, _ in meshes]), np.concatenate(faces)


def bump(vertices: Points, random: Random) -> Points:
    """A smooth height field: every vertex moves along its direction from the center."""
    waves = random.normal(size=(4, 3)) * random.uniform(2, 5)
    height = np.cos(vertices @ waves.T + random.uniform(0, 2 * np.pi, 4)).mean(-1, keepdims=True)
    bumped: Points = vertices * (1 + random.uniform(0.1, 0.35) * height)
    return bumped


def cut(vertices: Points, random: Random) -> Points:
    """Cut by a plane: what lies beyond it is flattened onto it, so the mesh stays closed."""
    normal = random.normal(size=3)
    normal /= np.linalg.norm(normal)
    beyond = np.maximum(vertices @ normal - random.uniform(0.1, 0.6), 0)
    return vertices - beyond[:, None] * normal


def rotation(random: Random) -> NDArray[np.float64]:
    """A uniformly random rotation matrix."""
    q, r = np.linalg.qr(random.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    turn: Points = q * np.sign(np.linalg.det(q))
    return turn
