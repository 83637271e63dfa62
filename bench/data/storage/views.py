"""Views as files give them → SceneData, with what any format's cameras must be."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.data.scene import SceneData
from bench.data.storage.pixels import Surface
from bench.data.storage.store import Broken

TOLERANCE = 1e-3  # of a camera's axes


def join_views(
    surfaces: Sequence[Surface], poses: NDArray[np.float64], field_of_view: NDArray[np.float64], path: str
) -> SceneData:
    """Views, their camera-to-world (view, 4, 4) and fields of view (view,). Raises Broken for pictures that differ."""
    if len(shapes := {rgba.shape for rgba, _, _ in surfaces}) > 1:
        raise Broken("wrong size", path, f"views of {len(shapes)} sizes")
    images, depth, normals = (np.stack(arrays) for arrays in zip(*surfaces, strict=True))
    return SceneData(images, depth, normals, poses, field_of_view)


def check_camera(axes: NDArray[np.float64], angle: float, path: str) -> NDArray[np.float64]:
    """Camera-to-world (4, 4) of OpenCV axes and center (3, 4), with a field of view in radians. Raises Broken."""
    if axes.shape != (3, 4):
        raise Broken("damaged", path, "the camera's axes and center are not three numbers each")
    if not np.isfinite(axes).all() or not math.isfinite(angle):
        raise Broken("not finite", path, "a number of the camera")
    if not axes[:, :3].any() or not axes[:, 3].any():
        raise Broken("zero camera", path, "axes or center are all 0")
    if np.abs(axes[:, :3].T @ axes[:, :3] - np.eye(3)).max() > TOLERANCE or np.linalg.det(axes[:, :3]) < 0:
        raise Broken("bad camera", path, "the axes are no rotation")
    if not 0 < angle < math.pi:
        raise Broken("bad camera", path, f"the field of view is {angle} radians")
    return np.concatenate([axes, [[0, 0, 0, 1]]])
