"""The frame of a scene's means and cameras: the first input camera's axes, about the object or about that camera."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Frame = Literal["lara", "freesplatter"]
FREESPLATTER_DISTANCE = 2.0


@dataclass(frozen=True)
class ToFrame:
    """Takes world points into the frame: x ↦ scale · rotation @ x + shift."""

    rotation: NDArray[np.float64]  # (3, 3)
    scale: float
    shift: NDArray[np.float64]  # (3,)


def world_to_frame(first_camera_to_world: NDArray[np.float64], frame: Frame) -> ToFrame:
    """From the first input camera; the object's center is the world's origin.

    `lara`: the origin stays at the object's center, the camera comes to (0, 0, −r), no rescaling. `freesplatter`: the
    camera is the origin, and the scene is scaled so that the object's center lies at distance 2, (0, 0, 2) where the
    camera looks at it; that is how FreeSplatter's published models put their Gaussians (its webui/runner.py).
    """
    rotation, center = first_camera_to_world[:3, :3].T, first_camera_to_world[:3, 3]
    if frame == "lara":
        return ToFrame(rotation, 1.0, np.zeros(3))
    scale = FREESPLATTER_DISTANCE / float(np.linalg.norm(center))
    return ToFrame(rotation, scale, -scale * rotation @ center)


def in_frame(camera_to_world: NDArray[np.float64], to: ToFrame) -> NDArray[np.float64]:
    """World-to-camera matrices (view, 4, 4) of cameras seen from the frame."""
    axes = to.rotation @ camera_to_world[:, :3, :3]
    centers = to.scale * camera_to_world[:, :3, 3] @ to.rotation.T + to.shift
    matrices = np.zeros_like(camera_to_world)
    matrices[:, :3, :3] = axes.transpose(0, 2, 1)
    matrices[:, :3, 3] = -np.einsum("vij,vi->vj", axes, centers)
    matrices[:, 3, 3] = 1
    return matrices
