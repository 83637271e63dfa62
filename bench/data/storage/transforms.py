"""Renderings described by a transforms.json, as Blender's NeRF scripts, instant-ngp and nerfstudio write them.

Per frame: `file_path` and `transform_matrix` (camera-to-world, OpenGL axes); intrinsics are `intrinsic_matrix`, or
`fl_x`, `fl_y`, `cx`, `cy`, `w`, `h`, or `camera_angle_x`, `camera_angle_y`, of the frame or of the file. What the
models do not have (a principal point off the center, lens distortion, pixels that are not square) is refused. Pictures
that are not square are padded to squares.
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.common.errors import UserError
from bench.data.cache import new_owner
from bench.data.scene import SceneData, Split
from bench.data.storage.files import is_utf8, read_file, read_json_object, readable, reported
from bench.data.storage.pixels import (
    Surface,
    decode_pfm,
    decode_picture,
    exr_channels,
    padded_to_square,
    refuse_larger,
    resized,
)
from bench.data.storage.source import StoreSource
from bench.data.storage.store import CAMERAS, Broken
from bench.data.storage.transforms_camera import frame_camera
from bench.data.storage.views import join_views
from models.parts import PartSpec

log = logging.getLogger(__name__)

FILE = "transforms.json"
DEPTH = 3  # folders between the root and that file, at most
PICTURES = ("", ".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG")  # suffixes; "": as the path has it
NOTHING = 1e4  # depths from here on mean background
EXR_CHANNELS = ("Z", "V", "Y", "R")  # where a depth may stand


@dataclass(frozen=True)
class Layout:
    """Where a view's files lie beside transforms.json, and the data set's unit.

    Attributes:
        pictures: patterns, of which a scene has the first that fits, with one of the suffixes PICTURES; {path} is a
            frame's `file_path`, {name} the same without folder and suffix, {index} the frame's place.
        depth: the pattern of depths; {name} is the picture's, without folder and suffix.
        unit: times lengths there, lengths in G-Objaverse's world.
    """

    pictures: tuple[str, ...]
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
    def layout(self) -> Layout:
        """The data set's."""

    def missing(self) -> list[str]:
        """What keeps the data from being read, one sentence each."""
        if self.root is None:
            return [f"data: {self.name} needs data.root=FOLDER"]
        return [] if Path(self.root).is_dir() else [f"data.root: there is no {self.root}"]

    def open(self, image_size: int, progress: bool = True) -> StoreSource:
        """Raises UserError."""
        if missing := self.missing():
            raise UserError("\n".join(missing))
        store = Transforms(Path(self.root or ""), self.layout())
        names = store.scenes()
        splits: dict[Split, list[str]] = {"evaluation": list(names[:: self.split_every]), "validation": []}
        splits["training"] = sorted(set(names) - set(splits["evaluation"]))
        return StoreSource(self.name, self.version, dict.fromkeys(names, store), splits, image_size)


@dataclass(frozen=True)
class Frames:
    """A scene's views: files, camera-to-world (view, 4, 4), fields of view (view,) of the padded pictures."""

    pictures: tuple[str, ...]
    depths: tuple[str, ...]
    poses: NDArray[np.float64]
    field_of_view: NDArray[np.float64]
    size: tuple[int, int]  # width and height of the pictures


class Transforms:
    """A store (bench/data/storage/store.py). A scene is named by its folder under the root."""

    def __init__(self, root: Path, layout: Layout) -> None:
        """Names the folders that cannot be read. Raises UserError where there is no scene."""
        self.root, self.layout, self._owner = root, layout, new_owner()
        scenes = dict(sorted(_find(root, root, DEPTH)))
        self.files = {readable(name): path for name, path in scenes.items()}
        self._broken = {
            readable(name): Broken("bad name", readable(path), "the name is not UTF-8: rename it")
            for name, path in scenes.items()
            if not is_utf8(name)
        }
        self._opaque = False  # whether a picture without transparency was read
        if not self.files:
            raise UserError(f"{readable(root)} holds no {FILE}, neither in it nor up to {DEPTH} folders below")

    def scenes(self) -> Sequence[str]:
        return list(self.files)

    def broken(self) -> Mapping[str, Broken]:
        return self._broken

    def read(self, scene: str, views: Sequence[int], size: int | None = None) -> SceneData:
        """Raises Broken, UserError. Normals are 0; so is depth where there is no file of it."""
        frames = self.frames(scene)
        surfaces = [self._view(frames, view, size) for view in views]
        chosen = list(views)
        return join_views(surfaces, frames.poses[chosen], frames.field_of_view[chosen], readable(self.files[scene]))

    def cameras(self, scene: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Camera-to-world (view, 4, 4) and fields of view (view,) of all views. Raises Broken."""
        frames = self.frames(scene)
        return frames.poses, frames.field_of_view

    def frames(self, scene: str) -> Frames:
        """Raises Broken."""
        if defect := self._broken.get(scene):
            raise defect
        frames: Frames = CAMERAS.get((self._owner, scene), lambda: read_frames(self.files[scene], self.layout))
        return frames

    def _view(self, frames: Frames, view: int, size: int | None) -> Surface:
        picture, path = Path(frames.pictures[view]), Path(frames.depths[view])
        rgba = decode_picture(read_file(picture), readable(picture), opaque=True)
        if rgba.shape[1::-1] != frames.size:
            detail = (
                f"views of 2 sizes: {rgba.shape[1]} × {rgba.shape[0]} px, others {frames.size[0]} × {frames.size[1]}"
            )
            raise Broken("wrong size", readable(picture), detail)
        if not self._opaque and rgba[..., 3].min() == 255:
            self._opaque = True
            log.warning("%s: opaque: all of such a picture counts as the object", readable(picture))
        depth = np.zeros(rgba.shape[:2], np.float32)
        if os.path.isfile(path):  # noqa: PTH113 (Path raises an error for a name that is too long)
            depth = decode_depth(path) * np.float32(self.layout.unit)
        if depth.shape != rgba.shape[:2]:
            raise Broken("wrong size", readable(path), f"{depth.shape}, but its picture {rgba.shape[:2]}")
        rgba, depth = padded_to_square(rgba, depth)
        refuse_larger(rgba, size, readable(picture))
        weight = rgba[..., 3] * np.float32(1 / 255) * (depth > 0)
        return resized(rgba, depth * weight, weight, np.zeros((3, *depth.shape), np.float32), size)


def read_frames(path: Path, layout: Layout) -> Frames:
    """A scene's cameras, and where its pictures and depths are. Raises Broken."""
    name = readable(path)
    content = read_json_object(read_file(path), name)
    frames = content.get("frames")
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise Broken("damaged", name, "`frames` is not a list of objects")
    if not frames:
        raise Broken("missing view", name, "it lists no frames")
    pictures = _pictures(path.parent, [str(frame.get("file_path", "")) for frame in frames], layout)
    depths = [str(path.parent / layout.depth.format(name=Path(picture).stem)) for picture in pictures]
    size = _first_size(pictures, path)
    cameras = [frame_camera(frame, content, size, layout.unit, f"{name}: frame {i}") for i, frame in enumerate(frames)]
    poses, angles = np.stack([pose for pose, _ in cameras]), np.array([angle for _, angle in cameras])
    return Frames(tuple(pictures), tuple(depths), poses, angles, size)


def decode_depth(path: Path) -> NDArray[np.float32]:
    """(height, width) of a PFM or EXR, along the optical axis, 0 where nothing is. Raises Broken."""
    content, name = read_file(path), readable(path)
    if path.suffix == ".pfm":
        depth = decode_pfm(content, name)
    else:
        channels = exr_channels(content, name)
        stored = [channel for channel in EXR_CHANNELS if channel in channels]
        if not stored:
            raise Broken("damaged", name, f"no depth among the channels {', '.join(channels)}")
        depth = channels[stored[0]]
    return np.where(np.isfinite(depth) & (depth > 0) & (depth < NOTHING), depth, np.float32(0))


def _pictures(folder: Path, paths: Sequence[str], layout: Layout) -> list[str]:
    """Of the frames with these `file_path`s, by the first pattern and suffix with which one is there. Raises Broken."""
    for pattern in layout.pictures:
        for suffix in PICTURES:
            names = [pattern.format(path=path, name=Path(path).stem, index=i) for i, path in enumerate(paths)]
            pictures = [str(folder / (name + suffix)) for name in names]
            if any(map(os.path.isfile, pictures)):
                return pictures
    expected = " or ".join(p.format(path=paths[0], name=Path(paths[0]).stem, index=0) for p in layout.pictures)
    raise Broken("missing file", readable(folder), f"no picture of any frame, such as {expected[:500]} (.png, .jpg)")


def _first_size(pictures: Sequence[str], scene: Path) -> tuple[int, int]:
    """Width and height in pixels, of the first that can be opened. Raises Broken."""
    for path in pictures:
        try:
            with reported(path), Image.open(path, formats=["PNG", "JPEG"]) as image:
                return image.width, image.height
        except Broken:  # named when that view is read
            continue
    raise Broken("damaged", readable(scene.parent), "no picture can be opened")


def _find(folder: Path, root: Path, depth: int) -> Iterator[tuple[str, Path]]:
    """(scene, its transforms.json); a folder `render` belongs to the one above. Names folders that cannot be read."""
    try:
        if (folder / FILE).is_file():
            named = folder.parent if folder.name == "render" else folder
            yield str(named.relative_to(root)), folder / FILE
            return
        children = [child for child in folder.iterdir() if not child.name.startswith(".") and child.is_dir()]
    except OSError as error:
        if folder == root:
            raise
        log.warning("%s: the folder cannot be read and is skipped (%s)", readable(folder), error.strerror)
        return
    if depth:
        for child in children:
            yield from _find(child, root, depth - 1)
