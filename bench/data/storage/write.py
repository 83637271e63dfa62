"""Scenes → G-Objaverse's files: per view a camera (.json), a picture (.png), and normals with depth (_nd.exr)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import OpenEXR
from numpy.typing import NDArray
from PIL import Image

from bench.data.scene import SceneData

LEVEL = "campos_512_v4"
BACKGROUND = np.array([0.0, 0.0, 1.0], np.float32)  # of _nd.exr, in R, G, B


def write_scene(
    scene: SceneData, folder: Path, views: Sequence[int] | None = None, more: Mapping[str, Any] | None = None
) -> None:
    """`folder`/<view>/<view>.json, .png and _nd.exr for each view; `folder` is a scene's, with LEVEL where wanted.

    `views` numbers the views (0, 1, … by default); `more` joins every camera's JSON (bbox, scale, offset).
    """
    for i, view in enumerate(range(len(scene.images)) if views is None else views):
        place = folder / f"{view:05d}"
        place.mkdir(parents=True, exist_ok=True)
        camera = camera_json(scene.camera_to_world[i], float(scene.field_of_view[i])) | dict(more or {})
        (place / f"{view:05d}.json").write_text(json.dumps(camera, indent=4), encoding="utf-8")
        Image.fromarray(scene.images[i]).save(place / f"{view:05d}.png")
        alpha = scene.images[i, ..., 3].astype(np.float32) / np.float32(255)
        write_exr(place / f"{view:05d}_nd.exr", normal_depth(scene.normals[i], scene.depth[i], alpha))


def camera_json(camera_to_world: NDArray[np.float64], field_of_view: float) -> dict[str, Any]:
    """The camera's axes and center as G-Objaverse names them; pictures are square."""
    x, y, z, origin = (camera_to_world[:3, i].round(9).tolist() for i in range(4))
    return {"max_depth": 5.0, "origin": origin, "x_fov": field_of_view, "y_fov": field_of_view, "x": x, "y": y, "z": z}


def normal_depth(
    normals: NDArray[np.float32], depth: NDArray[np.float32], alpha: NDArray[np.float32]
) -> NDArray[np.float16]:
    """(height, width, 4) RGBA of `_nd.exr`: A = alpha · depth; RGB = (−x, z, −y) of the normal, blended with the
    background by alpha and brought back to unit length."""
    x, y, z = np.moveaxis(normals, -1, 0)
    rgb = np.stack([-x, z, -y], -1) * alpha[..., None] + BACKGROUND * (1 - alpha[..., None])
    rgb /= np.maximum(np.linalg.norm(rgb, axis=-1, keepdims=True), 1e-6)
    return np.concatenate([rgb, (alpha * depth)[..., None]], -1).astype(np.float16)


def write_exr(path: Path, rgba: NDArray[np.float16]) -> None:
    """Half floats, ZIP."""
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    channels = {name: np.ascontiguousarray(rgba[..., i]) for i, name in enumerate("RGBA")}
    with OpenEXR.File(header, channels) as file:
        file.write(str(path))
