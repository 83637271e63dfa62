"""OFF files (Geomview; ASCII) → one part."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import UserError
from bench.data.meshes.assets import Assets
from bench.data.meshes.materials import Material, gray
from bench.data.meshes.mesh import Part
from bench.data.meshes.polygons import triangulate

KEYWORD = re.compile(r"(ST)?(C)?(N)?(4)?(n)?OFF(?![A-Za-z])")


def read_off(content: bytes, name: str, assets: Assets) -> list[Part]:
    """The polygons of an OFF file. Raises UserError for one that is damaged or binary."""
    lines = [line.partition("#")[0].strip() for line in content.decode("latin-1").splitlines()]
    lines = [line for line in lines if line]
    keyword = KEYWORD.match(lines[0]) if lines else None
    if keyword is None or keyword[4] or keyword[5] or "BINARY" in lines[0]:
        raise UserError("no ASCII OFF file of three dimensions")
    rest = lines[0][keyword.end() :].strip()
    rows = [row.split() for row in ([rest] if rest else []) + lines[1:]]
    if not rows or len(rows[0]) < 2 or not all(word.isdigit() for word in rows[0][:2]):
        raise UserError("OFF: the numbers of vertices and faces are missing")
    count, polygons = int(rows[0][0]), int(rows[0][1])
    if len(rows) < 1 + count + polygons:
        raise UserError(f"OFF: truncated: {len(rows) - 1} rows, where {count} vertices and {polygons} faces are named")
    vertices, colors, normals = _vertices(rows[1 : 1 + count], keyword, name, assets)
    corners, sizes, painted = _faces(rows[1 + count : 1 + count + polygons], count, name, assets)
    positions = triangulate(vertices, corners, sizes)
    faces, owner = corners[positions], np.repeat(np.arange(len(sizes)), sizes)[positions[:, 0]]
    if colors is not None:
        shades = colors[faces]
    elif not np.isnan(painted).all():
        shades = np.repeat(np.where(np.isnan(painted), gray().color, painted)[owner][:, None], 3, 1)
    else:
        return [Part(vertices, faces, gray(), normals=None if normals is None else normals[faces])]
    return [Part(vertices, faces, Material(np.ones(4)), None, shades, None if normals is None else normals[faces])]


def _vertices(
    rows: list[list[str]], keyword: re.Match[str], name: str, assets: Assets
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """(V, 3) positions, (V, 4) colors, (V, 3) normals; a vertex has them in the order position, normal, color, uv."""
    has_uv, has_colors, has_normals = keyword[1], keyword[2], keyword[3]
    least = 3 + 3 * bool(has_normals) + 3 * bool(has_colors) + 2 * bool(has_uv)
    if any(len(row) < least for row in rows):
        raise UserError(f"OFF: a vertex has fewer than {least} numbers")
    width = min(map(len, rows), default=least)
    table = np.array([float(word) for row in rows for word in row[:width]]).reshape(len(rows), width)
    if not has_colors and not has_uv and width > least:
        assets.warn(f"{name}: numbers after a vertex's coordinates are not read; colors need the keyword COFF")
    first = 6 if has_normals else 3
    colors = _opaque(table[:, first : first + 3]) if has_colors else None
    return table[:, :3], colors, table[:, 3:6] if has_normals else None


def _faces(
    rows: list[list[str]], count: int, name: str, assets: Assets
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """(corner,) indices, (face,) sizes, (face, 4) colors, NaN where a face has none."""
    corners: list[int] = []
    sizes, colors = [], []
    for row in rows:
        size = int(row[0])
        if size < 0 or len(row) < 1 + size:
            raise UserError(f"OFF: the face {' '.join(row)[:60]} has fewer corners than it says")
        if size < 3:
            assets.warn(f"{name}: faces with fewer than 3 corners are not drawn")
            continue
        corners += map(int, row[1 : 1 + size])
        sizes.append(size)
        extra = [float(word) for word in row[1 + size :]]
        if len(extra) == 1:
            assets.warn(f"{name}: colors of faces by an index are not read")
        colors.append(extra[:3] if len(extra) >= 3 else [np.nan] * 3)
    indices = np.array(corners, dtype=np.int64)
    if len(indices) and not (indices.min() >= 0 and indices.max() < count):
        raise UserError(f"OFF: an index is not among the {count} vertices")
    return indices, np.array(sizes, dtype=np.int64), _opaque(np.array(colors).reshape(-1, 3))


def _opaque(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """(row, 4) in [0, 1], of values up to 1 or up to 255."""
    scale = 255 if np.nanmax(rgb, initial=0) > 1 else 1
    return np.concatenate([np.clip(rgb / scale, 0, 1), np.where(np.isnan(rgb[:, :1]), np.nan, 1)], -1)
