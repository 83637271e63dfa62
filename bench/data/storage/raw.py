"""Raw G-Objaverse: scenes as folders or tars of json, png and exr files. Everything read is checked."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.data.scene import VIEWS, SceneData
from bench.data.storage.index import (
    SUFFIXES,
    VIEW,
    SceneLocation,
    index,
    missing_view,
)
from bench.data.storage.pixels import (
    Surface,
    check_magic,
    decode_exr,
    decode_png,
    refuse_larger,
    surface,
)
from bench.data.storage.store import Broken, Kind
from bench.data.storage.views import check_camera, join_views

CAMERAS_KEPT, TARS_KEPT = 50_000, 10_000  # scenes, a few kB each


def open_raw(root: Path, progress: bool = True, views: int = VIEWS) -> Raw:
    """Scenes of `views` views each. Raises UserError where there is none."""
    return Raw(root.resolve(), views, index(root, views, progress))


class Raw:
    """A store (bench/data/storage/store.py)."""

    def __init__(self, root: Path, views: int, places: Mapping[str, SceneLocation]) -> None:
        self.root, self.views, self.places = root, views, places
        self.cameras = lru_cache(CAMERAS_KEPT)(self._cameras)
        self._members = lru_cache(TARS_KEPT)(self._tar_members)

    def scenes(self) -> Sequence[str]:
        return list(self.places)

    def broken(self) -> Mapping[str, Broken]:
        return {scene: Broken(*place.broken) for scene, place in self.places.items() if place.broken}

    def read(self, scene: str, views: Sequence[int], size: int | None = None) -> SceneData:
        """These views, resized by the rule of `bench.data.storage.pixels.surface`. Raises Broken, UserError."""
        poses, field_of_view = self.cameras(scene)
        files = self.files(scene)
        read = [self._view(files, view, size) for view in views]
        return join_views(read, poses[list(views)], field_of_view[list(views)], str(files.path))

    def _cameras(self, scene: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Camera-to-world (view, 4, 4) and fields of view (view,) of all views. Raises Broken."""
        files = self.files(scene)
        cameras = [decode_camera(files.read(view, ".json"), files.name(view, ".json")) for view in range(self.views)]
        return np.stack([pose for pose, _ in cameras]), np.array([angle for _, angle in cameras])

    def _view(self, files: Files, view: int, size: int | None) -> Surface:
        png, exr = (files.name(view, suffix) for suffix in (".png", "_nd.exr"))
        rgba = decode_png(files.read(view, ".png"), png)
        refuse_larger(rgba, size, png)
        return surface(rgba, decode_exr(files.read(view, "_nd.exr"), exr), exr, size)

    def files(self, scene: str) -> Files:
        """Raises Broken."""
        place = self.places[scene]
        if place.broken:
            raise Broken(*place.broken)
        path = self.root / place.path
        return TarFiles(path, self._members(path)) if place.path.endswith(".tar") else FolderFiles(path)

    def _tar_members(self, path: Path) -> dict[tuple[int, str], tuple[int, int]]:
        """(view, suffix) → offset and size, of the files that are read. Raises Broken."""
        with path.open("rb") as file:
            check_magic(file.read(512), b"ustar", str(path), offset=257)
        found: dict[tuple[int, str], tuple[int, int]] = {}
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    stem, suffix = _parts(Path(member.name).name)
                    if member.isfile() and suffix in SUFFIXES and VIEW.fullmatch(stem):
                        found[int(stem), suffix] = (member.offset_data, member.size)
        except tarfile.TarError as error:
            raise Broken("truncated", path, str(error)) from error
        if problem := missing_view(sorted({view for view, _ in found}), self.views, str(path)):
            raise Broken(*problem)
        return found


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
        return f"{self.path}/{view:05d}/{view:05d}{suffix}"

    def read(self, view: int, suffix: str) -> bytes:
        try:
            return Path(self.name(view, suffix)).read_bytes()
        except FileNotFoundError as error:
            raise Broken("missing file", self.name(view, suffix), "it is not there") from error


class TarFiles:
    """PATH.tar holding …/00000/00000.json; each file is read alone."""

    def __init__(self, path: Path, members: Mapping[tuple[int, str], tuple[int, int]]) -> None:
        self.path, self.members = path, members

    def name(self, view: int, suffix: str) -> str:
        return f"{self.path}:{view:05d}/{view:05d}{suffix}"

    def read(self, view: int, suffix: str) -> bytes:
        if (view, suffix) not in self.members:
            raise Broken("missing file", self.name(view, suffix), "the tar does not hold it")
        offset, size = self.members[view, suffix]
        with self.path.open("rb") as file:
            content = os.pread(file.fileno(), size, offset)
        if len(content) < size:
            raise Broken("truncated", self.path, f"it ends inside {self.name(view, suffix)}")
        return content


def decode_camera(content: bytes, path: str) -> tuple[NDArray[np.float64], float]:
    """Camera-to-world (4, 4) and the horizontal field of view in radians, of a view's JSON. Raises Broken."""
    if content.lstrip()[:1] == b"<":
        check_magic(content, b"{", path)
    try:
        camera: dict[str, Any] = json.loads(content)
        axes = np.array([camera[key] for key in ("x", "y", "z", "origin")], np.float64).T
        angle = float(camera["x_fov"])
    except (ValueError, KeyError, TypeError) as error:
        kind: Kind = "truncated" if not content.rstrip().endswith(b"}") else "damaged"
        raise Broken(kind, path, f"no camera: {type(error).__name__} {error}") from error
    return check_camera(axes, angle, path), angle


def _parts(name: str) -> tuple[str, str]:
    """ "00012_nd.exr" → "00012", "_nd.exr"."""
    return name[:5], name[5:]
