"""Renderings described by a transforms.json, as Blender's NeRF scripts write them: a store, and a data set's spec."""

from __future__ import annotations

import contextlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.common.errors import UserError
from bench.data.scene import SceneData, Split
from bench.data.storage.pixels import (
    Surface,
    check_magic,
    decode_png,
    exr_channels,
    refuse_larger,
    resized,
)
from bench.data.storage.source import StoreSource
from bench.data.storage.store import Broken
from bench.data.storage.views import check_camera, join_views
from models.parts import PartSpec

FILE = "transforms.json"
DEPTH = 3  # folders between the root and that file, at most
NOTHING = 1e4  # depths from here on mean background
CENTERED = 1.0  # pixels that a principal point may lie off the center
OPENGL_TO_OPENCV = np.array([1.0, -1.0, -1.0])
EXR_CHANNELS = ("Z", "V", "Y", "R")  # where a depth may stand


@dataclass(frozen=True)
class Layout:
    """Where a view's files lie beside transforms.json; {name} is its `file_path` without folder, {index} its place.

    `unit` times lengths there are lengths in G-Objaverse's world.
    """

    picture: str
    depth: str
    unit: float = 1.0


@dataclass(frozen=True)
class TransformsSpec(PartSpec, ABC):
    """All scenes are for evaluation; with `split_every` above 1 every so-manieth is, and the others for training."""

    version: str = "1"
    root: str | None = field(default=None, metadata={"identity": False})
    split_every: int = 1

    at_least = {"split_every": 1}

    @abstractmethod
    def layouts(self) -> Sequence[Layout]:
        """Those that the data set comes in; a scene has the first whose picture it holds."""

    def missing(self) -> list[str]:
        """What keeps the data from being read, one sentence each."""
        if self.root is None:
            return [f"data: {self.name} needs data.root=FOLDER"]
        return [] if Path(self.root).is_dir() else [f"data.root: there is no {self.root}"]

    def open(self, image_size: int, progress: bool = True) -> StoreSource:
        """Raises UserError."""
        if missing := self.missing():
            raise UserError("\n".join(missing))
        store = Transforms(Path(self.root or ""), self.layouts())
        names = store.scenes()
        splits: dict[Split, list[str]] = {"evaluation": list(names[:: self.split_every]), "validation": []}
        splits["training"] = sorted(set(names) - set(splits["evaluation"]))
        return StoreSource(self.name, self.version, dict.fromkeys(names, store), splits, image_size)


@dataclass(frozen=True)
class Frames:
    """A scene's views: files, camera-to-world (view, 4, 4), fields of view (view,)."""

    pictures: tuple[Path, ...]
    depths: tuple[Path, ...]
    poses: NDArray[np.float64]
    field_of_view: NDArray[np.float64]
    unit: float


class Transforms:
    """A store (bench/data/storage/store.py). A scene is named by its folder under the root."""

    def __init__(self, root: Path, layouts: Sequence[Layout]) -> None:
        """Raises UserError where there is no scene."""
        self.root, self.layouts = root, layouts
        self.files = dict(sorted(_find(root, root, DEPTH)))
        if not self.files:
            raise UserError(f"{root} holds no {FILE}, neither in it nor up to {DEPTH} folders below")
        self.frames = lru_cache(None)(self._frames)

    def scenes(self) -> Sequence[str]:
        return list(self.files)

    def broken(self) -> Mapping[str, Broken]:
        return {}

    def read(self, scene: str, views: Sequence[int], size: int | None = None) -> SceneData:
        """Raises Broken, UserError. Normals are 0; so is depth where there is no file of it."""
        frames = self.frames(scene)
        read = [self._view(frames, view, size) for view in views]
        chosen = list(views)
        return join_views(read, frames.poses[chosen], frames.field_of_view[chosen], str(self.files[scene]))

    def cameras(self, scene: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Camera-to-world (view, 4, 4) and fields of view (view,) of all views. Raises Broken."""
        frames = self.frames(scene)
        return frames.poses, frames.field_of_view

    def _view(self, frames: Frames, view: int, size: int | None) -> Surface:
        picture, path = frames.pictures[view], frames.depths[view]
        rgba = decode_png(_content(picture), str(picture))
        refuse_larger(rgba, size, str(picture))
        depth = decode_depth(path) * np.float32(frames.unit) if path.is_file() else np.zeros(rgba.shape[:2], np.float32)
        if depth.shape != rgba.shape[:2]:
            raise Broken("wrong size", path, f"{depth.shape}, but its picture {rgba.shape[:2]}")
        weight = rgba[..., 3] * np.float32(1 / 255) * (depth > 0)
        return resized(rgba, depth * weight, weight, np.zeros((3, *depth.shape), np.float32), size)

    def _frames(self, scene: str) -> Frames:
        path = self.files[scene]
        content = _json(path)
        names = [Path(str(frame.get("file_path", ""))).stem for frame in content["frames"]]
        layout = self._layout(path.parent, names)
        pictures = [path.parent / layout.picture.format(name=n, index=i) for i, n in enumerate(names)]
        depths = [path.parent / layout.depth.format(name=n, index=i) for i, n in enumerate(names)]
        width = _width(pictures)
        cameras = [_camera(frame, content, width, layout.unit, f"{path}: frame {i}")
                   for i, frame in enumerate(content["frames"])]  # fmt: skip
        poses, angles = np.stack([pose for pose, _ in cameras]), np.array([angle for _, angle in cameras])
        return Frames(tuple(pictures), tuple(depths), poses, angles, layout.unit)

    def _layout(self, folder: Path, names: Sequence[str]) -> Layout:
        for layout in self.layouts:
            if any((folder / layout.picture.format(name=name, index=i)).is_file() for i, name in enumerate(names)):
                return layout
        wanted = " or ".join(layout.picture.format(name=names[0], index=0) for layout in self.layouts)
        raise Broken("missing file", folder, f"no picture of any frame, such as {wanted}")


def decode_depth(path: Path) -> NDArray[np.float32]:
    """(height, width) of a PFM or EXR, along the optical axis, 0 where nothing is. Raises Broken."""
    content = _content(path)
    if path.suffix == ".pfm":
        check_magic(content, b"Pf", str(path))
        try:
            depth = np.array(Image.open(BytesIO(content)), np.float32)
        except (OSError, ValueError) as error:
            raise Broken("truncated", path, str(error)) from error
    else:
        channels = exr_channels(content, str(path))
        found = [name for name in EXR_CHANNELS if name in channels]
        if not found:
            raise Broken("damaged", path, f"no depth among the channels {', '.join(channels)}")
        depth = channels[found[0]]
    return np.where(np.isfinite(depth) & (depth > 0) & (depth < NOTHING), depth, np.float32(0))


def _camera(
    frame: Mapping[str, Any], scene: Mapping[str, Any], width: int, unit: float, path: str
) -> tuple[NDArray[np.float64], float]:
    """Camera-to-world and the horizontal field of view; OpenGL axes (y up, z back) there, OpenCV here."""
    try:
        matrix = np.array(frame["transform_matrix"], np.float64)
        if "intrinsic_matrix" in frame:
            intrinsics = np.array(frame["intrinsic_matrix"], np.float64)
            if np.abs(intrinsics[:2, 2] - width / 2).max() > CENTERED:
                raise Broken("bad camera", path, f"its principal point {intrinsics[:2, 2]} is not the center")
            angle = 2 * math.atan(width / 2 / intrinsics[0, 0])
        else:
            angle = float(scene["camera_angle_x"])
        axes = np.concatenate([matrix[:3, :3] * OPENGL_TO_OPENCV, unit * matrix[:3, 3:4]], 1)
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise Broken("damaged", path, f"no camera: {type(error).__name__} {error}") from error
    return check_camera(axes, angle, path), angle


def _width(pictures: Sequence[Path]) -> int:
    """In pixels, of the first that can be opened. Raises Broken."""
    for path in pictures:
        with contextlib.suppress(OSError), Image.open(path) as image:
            return int(image.width)
    raise Broken("damaged", pictures[0].parent, "no picture can be opened")


def _find(folder: Path, root: Path, depth: int) -> Iterator[tuple[str, Path]]:
    """(scene, its transforms.json); a folder `render` belongs to the one above."""
    if (folder / FILE).is_file():
        named = folder.parent if folder.name == "render" else folder
        yield str(named.relative_to(root)), folder / FILE
    elif depth:
        for child in folder.iterdir():
            if child.is_dir():
                yield from _find(child, root, depth - 1)


def _json(path: Path) -> dict[str, Any]:
    content = _content(path)
    if content.lstrip()[:1] == b"<":
        check_magic(content, b"{", str(path))
    try:
        found: dict[str, Any] = json.loads(content)
    except ValueError as error:
        raise Broken("damaged", path, str(error)) from error
    if not found.get("frames"):
        raise Broken("missing view", path, "it lists no frames")
    return found


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise Broken("missing file", path, "it is not there") from error
