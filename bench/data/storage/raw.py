"""Raw G-Objaverse: scenes as folders or tars of json, png and exr files. Everything read is checked."""

from __future__ import annotations

import math
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bench.data.cache import new_owner
from bench.data.scene import VIEWS, SceneData
from bench.data.storage.files import check_magic, read_file, read_json_object, readable, reported
from bench.data.storage.index import SUFFIXES, VIEW, SceneLocation, index, missing_view
from bench.data.storage.pixels import Surface, decode_exr, decode_picture, refuse_larger, surface
from bench.data.storage.store import CAMERAS, Broken
from bench.data.storage.views import check_camera, join_views

SQUARE = 1e-3  # relative difference of a square picture's fields of view
Members = dict[tuple[int, str], tuple[int, int]]  # (view, suffix) → offset and size in a tar


def open_raw(root: Path, progress: bool = True, views: int = VIEWS) -> Raw:
    """Scenes of `views` views each. Raises UserError where there is none."""
    return Raw(root.resolve(), views, index(root, views, progress))


class Raw:
    """A store (bench/data/storage/store.py)."""

    def __init__(self, root: Path, views: int, locations: Mapping[str, SceneLocation]) -> None:
        self.root, self.views, self.locations, self._owner = root, views, locations, new_owner()

    def scenes(self) -> Sequence[str]:
        return list(self.locations)

    def broken(self) -> Mapping[str, Broken]:
        return {name: Broken(*location.broken) for name, location in self.locations.items() if location.broken}

    def read(self, scene: str, views: Sequence[int], size: int | None = None) -> SceneData:
        """These views, resized by the rule of `bench.data.storage.pixels.surface`. Raises Broken, UserError."""
        poses, field_of_view = self.cameras(scene)
        files = self.files(scene)
        surfaces = [self._view(files, view, size) for view in views]
        return join_views(surfaces, poses[list(views)], field_of_view[list(views)], str(files.path))

    def cameras(self, scene: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Camera-to-world (view, 4, 4) and fields of view (view,) of all views. Raises Broken."""
        cameras: tuple[NDArray[np.float64], NDArray[np.float64]] = CAMERAS.get(
            (self._owner, scene), lambda: self._read_cameras(self.files(scene))
        )
        return cameras

    def files(self, scene: str) -> Files:
        """Raises Broken."""
        location = self.locations[scene]
        if location.broken:
            raise Broken(*location.broken)
        path = self.root / location.path
        if not location.path.endswith(".tar"):
            return FolderFiles(path)
        return TarFiles(path, CAMERAS.get((self._owner, path), lambda: read_tar_members(path, self.views)))

    def _read_cameras(self, files: Files) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        cameras = [decode_camera(files.read(view, ".json"), files.name(view, ".json")) for view in range(self.views)]
        return np.stack([pose for pose, _ in cameras]), np.array([angle for _, angle in cameras])

    def _view(self, files: Files, view: int, size: int | None) -> Surface:
        png, exr = (files.name(view, suffix) for suffix in (".png", "_nd.exr"))
        rgba = decode_picture(files.read(view, ".png"), png)
        refuse_larger(rgba, size, png)
        return surface(rgba, decode_exr(files.read(view, "_nd.exr"), exr), exr, size)


class Files(Protocol):
    """One scene's files."""

    path: Path

    def name(self, view: int, suffix: str) -> str:
        """For messages."""
        ...

    def read(self, view: int, suffix: str) -> bytes:
        """Raises Broken where there is no such file."""
        ...


class FolderFiles:
    """PATH/00000/00000.json."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def name(self, view: int, suffix: str) -> str:
        return readable(self._file(view, suffix))

    def read(self, view: int, suffix: str) -> bytes:
        return read_file(self._file(view, suffix))

    def _file(self, view: int, suffix: str) -> Path:
        return self.path / f"{view:05d}" / f"{view:05d}{suffix}"


class TarFiles:
    """PATH.tar holding …/00000/00000.json; each file is read alone."""

    def __init__(self, path: Path, members: Members) -> None:
        self.path, self.members = path, members

    def name(self, view: int, suffix: str) -> str:
        return f"{readable(self.path)}:{view:05d}/{view:05d}{suffix}"

    def read(self, view: int, suffix: str) -> bytes:
        if (view, suffix) not in self.members:
            raise Broken("missing file", self.name(view, suffix), "the tar does not hold it")
        offset, size = self.members[view, suffix]
        try:
            with self.path.open("rb") as file:
                content = os.pread(file.fileno(), size, offset)
        except OSError as error:
            raise Broken("unreadable", readable(self.path), error.strerror or str(error)) from error
        if len(content) < size:
            raise Broken("truncated", readable(self.path), f"it ends inside {self.name(view, suffix)}")
        return content


def read_tar_members(path: Path, views: int) -> Members:
    """Where the files of a tar's `views` views are. Raises Broken."""
    name, members, end = readable(path), Members(), -1
    try:
        with path.open("rb") as file:
            check_magic(file.read(512), b"ustar", name, offset=257)
            total = file.seek(0, os.SEEK_END)
    except OSError as error:
        raise Broken("unreadable", name, error.strerror or str(error)) from error
    with reported(name, "truncated"), tarfile.open(path, "r:") as tar:
        for member in tar:
            if member.offset <= end or member.size < 0 or member.offset_data + member.size > total:
                raise Broken("truncated", name, f"{readable(member.name)} reaches beyond the end of the tar")
            end = member.offset
            stem, suffix = member.name.rpartition("/")[2][:5], member.name.rpartition("/")[2][5:]
            if member.isfile() and suffix in SUFFIXES and VIEW.fullmatch(stem):
                members[int(stem), suffix] = (member.offset_data, member.size)
    if problem := missing_view(sorted({view for view, _ in members}), views, name):
        raise Broken(*problem)
    return members


def decode_camera(content: bytes, path: str) -> tuple[NDArray[np.float64], float]:
    """Camera-to-world (4, 4) and the field of view in radians, of a view's JSON. Raises Broken."""
    camera = read_json_object(content, path)
    with reported(path):
        if missing := [key for key in ("x", "y", "z", "origin", "x_fov") if key not in camera]:
            raise Broken("damaged", path, f"no camera: it lacks {', '.join(missing)}")
        axes = np.array([camera[key] for key in ("x", "y", "z", "origin")], np.float64).T
        angle, vertical = float(camera["x_fov"]), float(camera.get("y_fov", camera["x_fov"]))
    pose = check_camera(axes, angle, path)
    if not math.isclose(angle, vertical, rel_tol=SQUARE):
        raise Broken("bad camera", path, f"x_fov {angle} and y_fov {vertical} are not those of a square picture")
    return pose, angle
