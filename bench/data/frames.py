"""The frame of a scene's means and cameras: the first input camera's axes, the origin at the object's centre."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Frame = Literal["lara", "freesplatter"]
FREESPLATTER_DISTANCE = 2.0


def world_to_frame(first_camera_to_world: NDArray[np.float64], frame: Frame) -> tuple[NDArray[np.float64], float]:
    """Rotation (3, 3) and scale that take world points into the frame: x ↦ scale · rotation @ x.

    `lara`: the first camera comes to (0, 0, −r), no rescaling. `freesplatter`: rescaled so that it lies at distance 2.
    """
    rotation = first_camera_to_world[:3, :3].T
    distance = float(np.linalg.norm(first_camera_to_world[:3, 3]))
    return rotation, FREESPLATTER_DISTANCE / distance if frame == "freesplatter" else 1.0


def in_frame(camera_to_world: NDArray[np.float64], rotation: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """World-to-camera matrices (view, 4, 4) of cameras seen from the frame."""
    axes = rotation @ camera_to_world[:, :3, :3]
    centres = scale * camera_to_world[:, :3, 3] @ rotation.T
    matrices = np.zeros_like(camera_to_world)
    matrices[:, :3, :3] = axes.transpose(0, 2, 1)
    matrices[:, :3, 3] = -np.einsum("vij,vi->vj", axes, centres)
    matrices[:, 3, 3] = 1
    return matrices
