"""One view: do its color, depth, normals and mask fit together? For `python -m bench.data check`.

No test can fail in whole data, whatever the object: shares and medians of many pixels, so that edges, thin
parts and half floats do not matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

STRAY = 0.01  # share of a silhouette's pixels: picture and depth disagree on what is there
FEW = 12  # pixels, too few to decide anything
ENOUGH = 60  # pixels that decide on normals, edges and neighbors
EDGE = 0.5  # exponent of alpha in depth and color of edges: 0 when right, 1 after a division or product too many
DARK = 0.03  # colors too dark to compare
NORMAL = 0.5  # cosine, in the mean, to the normal that depth shows: few views of real models at 64² have under 0.7
LENGTH = 0.1  # of a normal, off 1
AWAY = 0.7  # share of the normals that point away from the camera, on however few pixels
POINTS = 3000  # of a view
STEEP = 6.0  # pixels' widths
FLAT = 0.25  # pixels' widths that depth may bend where a normal is taken from it


@dataclass(frozen=True)
class View:
    """One view as it is stored. `stray`: pixels whose file holds a depth where the picture shows nothing."""

    number: int
    rgba: NDArray[np.uint8]  # (height, width, 4)
    depth: NDArray[np.float32]  # (height, width), 0 where nothing is
    normals: NDArray[np.float32]  # (height, width, 3), in the world
    camera_to_world: Floats  # (4, 4)
    field_of_view: float  # radians
    stray: int = 0
    aspect: float = 1.0  # vertical over horizontal focal length in pixels: 1 in data, another in a hypothesis

    @cached_property
    def focal(self) -> float:
        return float(self.rgba.shape[1] / 2 / np.tan(self.field_of_view / 2))

    @cached_property
    def solid(self) -> NDArray[np.bool_]:
        """(height, width): opaque, with depth, like all eight neighbors."""
        opaque = (self.rgba[..., 3] == 255) & (self.depth > 0)
        return _minimum_of_neighbors(opaque.astype(np.float32)) > 0

    @cached_property
    def nearest(self) -> NDArray[np.float32]:
        """(height, width): the least depth of a pixel and its neighbors, infinite where nothing is."""
        return _minimum_of_neighbors(
            np.where((self.rgba[..., 3] > 0) & (self.depth > 0), self.depth, np.float32(np.inf))
        )

    @cached_property
    def smooth(self) -> NDArray[np.bool_]:
        """(height, width): no step of depth among a pixel and its neighbors; a mean over a step is on no surface."""
        return -_minimum_of_neighbors(-self.depth) - self.nearest < STEEP * self.depth / self.focal

    @cached_property
    def size(self) -> int:
        """Of the object, in solid smooth pixels."""
        return int((self.solid & self.smooth).sum())

    @cached_property
    def framed(self) -> bool:
        """Whether all of the object is in the picture."""
        alpha = self.rgba[..., 3]
        return not (alpha[[0, -1]].any() or alpha[:, [0, -1]].any())

    @cached_property
    def sample(self) -> tuple[Floats, Floats, Floats]:
        """Points in the world (n, 3), colors (n, 3) in [0, 1] and normals (n, 3), evenly from what is solid."""
        row, column = np.nonzero(self.solid & self.smooth)
        every = max(1, -(-len(row) // POINTS))
        row, column = row[::every], column[::every]
        points = self.local(row, column) @ self.camera_to_world[:3, :3].T + self.camera_to_world[:3, 3]
        return points, self.rgba[row, column, :3] / 255, self.normals[row, column].astype(np.float64)

    def project(self, points: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats, NDArray[np.bool_]]:
        """Of points (n, 3) in the world: rows, columns and depths (n,), and which lie in the picture."""
        height, width = self.depth.shape
        local = (points - self.camera_to_world[:3, 3]) @ self.camera_to_world[:3, :3]
        z = np.maximum(local[:, 2], 1e-6)
        column = np.floor(local[:, 0] / z * self.focal + width / 2).astype(np.int64)
        row = np.floor(local[:, 1] / z * self.focal * self.aspect + height / 2).astype(np.int64)
        inside = (local[:, 2] > 0) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        return row, column, z, inside

    def local(self, row: NDArray[np.int64], column: NDArray[np.int64]) -> Floats:
        """(n, 3): the points behind pixels' centers, in the camera's axes."""
        height, width = self.depth.shape
        rays = [
            (column + 0.5 - width / 2) / self.focal,
            (row + 0.5 - height / 2) / (self.focal * self.aspect),
            np.ones(len(row)),
        ]
        points: Floats = np.stack(rays, -1) * self.depth[row, column, None]
        return points


Findings = tuple[str, str]  # kind and detail
EMPTY = "no pixel is seen"


def check_view(view: View) -> Iterator[Findings]:
    """What does not fit together in one view."""
    seen = view.rgba[..., 3] > 0
    count = int(seen.sum())
    if not count:
        yield "empty picture", EMPTY
        return
    hollow = int((seen & (view.depth <= 0)).sum())
    if hollow + view.stray > max(FEW, STRAY * count):
        yield (
            "mask",
            f"of {count} pixels seen {hollow} have no depth, and {view.stray} others have one: not the same view's",
        )
        return
    alpha = view.rgba[..., 3] / 255
    exponent = edge_exponent(view.depth, alpha)
    if abs(exponent) > EDGE:
        how = "not multiplied by alpha in the file" if exponent < 0 else "multiplied by alpha once too often"
        yield "edge depth", f"depth of edges goes as alpha^{exponent:+.2f}: {how}"
    if not view.normals.any():  # not known
        return
    length, cosine = normal_fit(view)
    if abs(length - 1) > LENGTH:
        yield "normals", f"their length is {length:.2f} in the median, not 1"
    elif cosine < NORMAL:
        how = "flipped" if cosine < -NORMAL else "of other axes, or another view's"
        yield "normals", f"cosine {cosine:+.2f} in the mean to the surface that depth shows: {how}"
    elif (share := points_away(view)) > AWAY:
        yield "normals", f"{share:.0%} point away from the camera: flipped"


def premultiplied(views: Sequence[View]) -> Iterator[Findings]:
    """Colors multiplied by alpha in all views: what edges show of a single one may be its object's own."""
    bright = [view.rgba[..., :3].max(-1) / 255 for view in views]
    exponents = [
        edge_exponent(np.where(value > DARK, value, 0), view.rgba[..., 3] / 255)
        for value, view in zip(bright, views, strict=True)
    ]
    if exponents and abs((exponent := float(np.median(exponents))) - 1) < EDGE / 2:
        yield (
            "edge color",
            f"colors of edges go as alpha^{exponent:+.2f} in the median: multiplied by alpha in the files",
        )


def edge_exponent(values: NDArray[np.floating[Any]], alpha: Floats) -> float:
    """p of value = alpha^p · value of the solid neighbor, at pixels partly covered: the quartile nearer 0.

    Of depths or colors (height, width), 0 where there is none; alpha in [0, 1].
    """
    partly = (alpha > 0.1) & (alpha < 0.9) & (values > 0)
    partly[[0, -1]] = partly[:, [0, -1]] = False
    row, column = np.nonzero(partly)
    exponents_by_side = []
    for down, right in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        solid = (alpha[row + down, column + right] == 1) & (values[row + down, column + right] > 0)
        at = row[solid], column[solid]
        ratio = values[at] / values[at[0] + down, at[1] + right]
        exponents_by_side.append(np.log(ratio) / np.log(alpha[at]))
    exponents = np.concatenate(exponents_by_side)
    if len(exponents) < ENOUGH:
        return 0.0
    low, high = np.quantile(exponents, (0.25, 0.75))
    return float(max(low, 0) + min(high, 0))


def normal_fit(view: View) -> tuple[float, float]:
    """Over solid pixels: the median length of the normals, and their mean cosine to the depth's, towards the camera."""
    step = max(1, len(view.depth) // 128)
    solid = view.solid & view.smooth
    solid[:step] = solid[-step:] = False
    solid[:, :step] = solid[:, -step:] = False
    row, column = np.nonzero(solid)
    around = ((0, step), (0, -step), (step, 0), (-step, 0))
    whole = np.logical_and.reduce([view.solid[row + down, column + right] for down, right in around])
    row, column = row[whole], column[whole]
    one, two, three, four = (view.depth[row + down, column + right] for down, right in around)
    bend = np.maximum(
        np.abs(one + two - 2 * view.depth[row, column]), np.abs(three + four - 2 * view.depth[row, column])
    )
    flat = bend < FLAT * step * view.depth[row, column] / view.focal  # a mean over leaves or wires is no surface
    row, column = row[flat], column[flat]
    if len(row) < ENOUGH:
        return 1.0, 1.0
    right, left, below, above = (view.local(row + down, column + across) for down, across in around)
    from_depth = np.cross(below - above, right - left)  # towards the camera
    from_depth = from_depth / np.linalg.norm(from_depth, axis=-1, keepdims=True) @ view.camera_to_world[:3, :3].T
    normals = view.normals[row, column].astype(np.float64)
    length = np.linalg.norm(normals, axis=-1)
    cosine = (normals * from_depth).sum(-1) / np.maximum(length, 1e-6)
    return float(np.median(length)), float(cosine.mean())


def points_away(view: View) -> float:
    """Share of the opaque pixels' normals that point away from the camera; 0 of too few."""
    row, column = np.nonzero((view.rgba[..., 3] == 255) & (view.depth > 0) & view.normals.any(-1))
    if len(row) < FEW:
        return 0.0
    rays = view.local(row, column) @ view.camera_to_world[:3, :3].T
    return float(((view.normals[row, column] * rays).sum(-1) > 0).mean())


def _minimum_of_neighbors(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """(height, width): the least of each pixel and its eight neighbors."""
    padded = np.pad(values, 1, mode="edge")
    rows = np.minimum(np.minimum(padded[:-2], padded[1:-1]), padded[2:])
    return np.minimum(np.minimum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])
