"""The camera of a frame of transforms.json (NeRF, instant-ngp): pinhole, centered, square pixels; others fail."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.storage.files import reported
from bench.data.storage.store import Broken
from bench.data.storage.views import check_camera

CAMERA_MODELS = ("PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "PERSPECTIVE")  # with DISTORTION 0
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
CENTERED = 1.0  # pixels that a principal point may lie off the center
SQUARE = 0.005  # relative difference of focal lengths, of what still are square pixels
OPENGL_TO_OPENCV = np.array([1.0, -1.0, -1.0])


def frame_camera(
    frame: Mapping[str, Any], scene: Mapping[str, Any], size: tuple[int, int], unit: float, path: str
) -> tuple[NDArray[np.float64], float]:
    """Camera-to-world, and the field of view of the padded picture; OpenGL axes (y up, z back) there, OpenCV here.

    `size`: width and height of the scene's pictures.
    """
    values = {**scene, **frame}
    with reported(path):
        matrix = np.array(values.get("transform_matrix"), np.float64)
        if matrix.shape not in ((4, 4), (3, 4)):
            raise Broken("damaged", path, f"no camera: transform_matrix has shape {matrix.shape}, not (4, 4)")
        tangents = _half_sizes(values, size, path)
        angle = 2 * math.atan(max(tangents))
        axes = np.concatenate([matrix[:3, :3] * OPENGL_TO_OPENCV, unit * matrix[:3, 3:4]], 1)
    return check_camera(axes, angle, path), angle


def _half_sizes(values: Mapping[str, Any], size: tuple[int, int], path: str) -> tuple[float, float]:
    """Half the picture's width and height at distance 1. Raises Broken for a camera that the models do not have."""
    if (model := str(values.get("camera_model") or "PINHOLE")) not in CAMERA_MODELS or values.get("is_fisheye"):
        raise Broken("bad camera", path, f"camera model {model[:50]} is not a pinhole: undistort the pictures")
    if distorted := [name for name in DISTORTION if float(values.get(name) or 0) != 0]:
        raise Broken("bad camera", path, f"lens distortion ({', '.join(distorted)}): undistort the pictures")
    width, height = float(values.get("w") or size[0]), float(values.get("h") or size[1])
    if "intrinsic_matrix" in values:
        width, height = size
        matrix = np.array(values["intrinsic_matrix"], np.float64)
        focal, center = (matrix[0, 0], matrix[1, 1]), (matrix[0, 2], matrix[1, 2])
    elif "fl_x" in values:
        focal = float(values["fl_x"]), float(values.get("fl_y", values["fl_x"]))
        center = float(values.get("cx", width / 2)), float(values.get("cy", height / 2))
    elif "camera_angle_x" in values:
        focal_x = width / 2 / math.tan(float(values["camera_angle_x"]) / 2)
        angle_y = values.get("camera_angle_y")
        focal = focal_x, focal_x if angle_y is None else height / 2 / math.tan(float(angle_y) / 2)
        center = width / 2, height / 2
    else:
        raise Broken("damaged", path, "no camera: neither intrinsic_matrix nor fl_x nor camera_angle_x")
    if not np.isfinite([*focal, *center, width, height]).all():
        raise Broken("not finite", path, "a number of the camera")
    if min(*focal, width, height) <= 0:
        raise Broken("bad camera", path, f"focal lengths {focal[0]:g}, {focal[1]:g} of {width:g} × {height:g} px")
    if max(abs(center[0] - width / 2), abs(center[1] - height / 2)) > CENTERED:
        raise Broken("bad camera", path, f"its principal point {center[0]:g}, {center[1]:g} is not the center")
    if abs(focal[1] / focal[0] - 1) > SQUARE:
        raise Broken("bad camera", path, f"focal lengths {focal[0]:g} and {focal[1]:g} px: pixels are not square")
    if abs(width / height * size[1] / size[0] - 1) > 1 / min(size):
        raise Broken(
            "wrong size",
            path,
            f"a camera of {width:g} × {height:g} px, but pictures of {size[0]} × {size[1]}: they are squashed",
        )
    return width / 2 / focal[0], height / 2 / focal[1]
