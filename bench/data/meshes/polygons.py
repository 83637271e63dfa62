"""Polygons → triangles: fans of convex ones, ears of others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import UserError

MAX_EAR_CORNERS = 1000  # of a polygon that is not convex: ears take cubic time
REFLEX = -0.01  # sine of a corner's turn from which a polygon is not convex: files round to few digits


def triangulate(
    vertices: NDArray[np.float64], polygons: NDArray[np.int64], sizes: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Triangles (F, 3) as positions in `polygons`, the corners of all polygons one after another.

    Args:
        vertices: (V, 3).
        polygons: (corner,) indices of vertices.
        sizes: (polygon,) corners of each, at least 3.

    Raises UserError.
    """
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    if (sizes == 3).all():
        return starts[:, None] + np.arange(3)
    points = vertices[polygons]
    bent = set(_not_convex(points, starts, sizes).tolist())
    if (sizes == 4).all() and not bent:
        return np.concatenate([starts[:, None] + [0, 1, 2], starts[:, None] + [2, 3, 0]])
    triangles: list[tuple[int, int, int]] = []
    for i, (start, size) in enumerate(zip(starts.tolist(), sizes.tolist(), strict=True)):
        if i in bent:
            ears = _ears(points[start : start + size])
            triangles += [(start + a, start + b, start + c) for a, b, c in ears]
        elif size == 4:
            triangles += [(start, start + 1, start + 2), (start + 2, start + 3, start)]
        else:
            triangles += [(start, start + k + 1, start + k + 2) for k in range(size - 2)]
    return np.array(triangles, dtype=np.int64).reshape(-1, 3)


def _not_convex(points: NDArray[np.float64], starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices of the polygons of which a corner turns against the others."""
    owner = np.repeat(np.arange(len(sizes)), sizes)
    within = np.arange(len(points)) - starts[owner]
    following = points[starts[owner] + (within + 1) % sizes[owner]]
    preceding = points[starts[owner] + (within - 1) % sizes[owner]]
    turn = np.cross(points - preceding, following - points)
    origin = points[starts[owner]]
    normal = np.stack([np.bincount(owner, c) for c in np.cross(points - origin, following - origin).T], -1)
    lengths = np.prod([np.linalg.norm(v, axis=-1) for v in (points - preceding, following - points, normal[owner])], 0)
    inward = (turn * normal[owner]).sum(-1) < REFLEX * lengths
    return np.unique(owner[inward & (sizes[owner] > 3)])


def _ears(points: NDArray[np.float64]) -> list[tuple[int, int, int]]:
    """Ear clipping of one polygon (n, 3), projected along its mean normal (Newell); n − 2 triangles."""
    if len(points) > MAX_EAR_CORNERS:
        raise UserError(f"a polygon of {len(points)} corners that is not convex; triangulate it")
    normal = np.cross(points - points[0], np.roll(points, -1, 0) - points[0]).sum(0)
    axis = int(np.abs(normal).argmax())
    flat = np.delete(points, axis, 1) * np.where((normal[axis] > 0) == (axis != 1), 1.0, -1.0) ** np.array([0, 1])
    corners, triangles = list(range(len(points))), []
    while len(corners) > 3:
        position = next((i for i in range(len(corners)) if _is_ear(flat, corners, i)), 0)
        triangles.append((corners[position - 1], corners[position], corners[(position + 1) % len(corners)]))
        corners.pop(position)
    return [*triangles, (corners[0], corners[1], corners[2])]


def _is_ear(flat: NDArray[np.float64], corners: list[int], position: int) -> bool:
    """Whether a corner turns left and its triangle holds no other corner."""
    a, b, c = corners[position - 1], corners[position], corners[(position + 1) % len(corners)]
    if _area(flat[a], flat[b], flat[c]) <= 0:
        return False
    others = flat[[k for k in corners if k not in (a, b, c)]]
    inside = np.stack([_area(flat[p], flat[q], others) for p, q in ((a, b), (b, c), (c, a))]) > 0
    return not inside.all(0).any()


def _area(p: NDArray[np.float64], q: NDArray[np.float64], r: NDArray[np.float64]) -> NDArray[np.float64]:
    """Twice the signed area of the triangle p, q, r; `r` may be several points (n, 2)."""
    area: NDArray[np.float64] = (q[0] - p[0]) * (r[..., 1] - p[1]) - (q[1] - p[1]) * (r[..., 0] - p[0])
    return area
