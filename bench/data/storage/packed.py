"""The packed form: resized scenes in one LMDB file, for training at full speed from a cluster's file system.

ROOT/packed.json   format, size, source, names of the scenes, and the broken ones that were left out
ROOT/data.mdb      "<scene>\\0" → cameras: float64 camera-to-world (view, 4, 4), then fields of view (view,)
                   "<scene>\\0<view>" → zlib of: one bit a pixel, whether anything is stored; of those pixels alone
                   RGBA uint8, depth float16, world normal int8 (127 is 1)

Of a picture of 256² that is 54 KiB in the mean over real objects (576 without, 121 with the bits alone), for 0.5 ms.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import lmdb
import numpy as np
from numpy.typing import NDArray

from bench.common.errors import UserError
from bench.data.scene import SceneData
from bench.data.storage.files import read_file, read_json_object, readable, reported
from bench.data.storage.pixels import Surface, refuse_larger, resized
from bench.data.storage.store import PACKED, Broken
from bench.data.storage.views import join_views

FORMAT = 1
DATA = "data.mdb"
LEVEL = 1  # of zlib
POSE = 16  # numbers
NORMAL = np.float32(127)


def open_packed(root: Path) -> Packed:
    """Raises UserError for a root that is damaged or of a newer format."""
    path = root / PACKED
    content = read_json_object(read_file(path), readable(path))
    if content.get("format") != FORMAT:
        actual = str(content.get("format"))[:20]
        raise UserError(f"{readable(path)} has format {actual}, this EAD-Bench reads {FORMAT}: pack the scenes anew")
    if not (root / DATA).is_file():
        raise UserError(f"{readable(root)} has no {DATA}: pack the scenes anew")
    with reported(readable(path)):
        packed = Packed(root.resolve(), content)
    packed.verify()
    return packed


class Packed:
    """A store (bench/data/storage/store.py), opened in each process by itself: it may be forked, or sent to another."""

    def __init__(self, root: Path, content: Mapping[str, Any]) -> None:
        self.root = root
        self.file = root, (root / DATA).stat().st_ino
        self.size = int(content["size"])
        self.skipped = {row["scene"]: Broken(row["kind"], row["path"], row["detail"]) for row in content["broken"]}
        self.names = sorted([*content["scenes"], *self.skipped])

    def __reduce__(self) -> tuple[Any, ...]:
        return open_packed, (self.root,)

    def scenes(self) -> Sequence[str]:
        """Those that were left out as well, so that every split is the raw root's."""
        return self.names

    def broken(self) -> Mapping[str, Broken]:
        return self.skipped

    def read(self, scene: str, views: Sequence[int], size: int | None = None) -> SceneData:
        """Raises Broken, and UserError for a size above the packed one."""
        poses, field_of_view = self.cameras(scene)
        surfaces = [self._view(scene, view, size) for view in views]
        return join_views(surfaces, poses[list(views)], field_of_view[list(views)], f"{self.root}:{scene}")

    def cameras(self, scene: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Camera-to-world (view, 4, 4) and fields of view (view,) of all views. Raises Broken."""
        if scene in self.skipped:
            defect = self.skipped[scene]
            raise Broken(defect.kind, defect.path, defect.detail)
        try:
            return decode_cameras(self._value(camera_key(scene)))
        except ValueError as error:
            raise Broken("damaged", self.root / DATA, f"the cameras of {scene}: {error}") from error

    def verify(self) -> None:
        """Raise UserError for a file that ends before its last page: reading there would end the process."""
        try:
            environment = self._environment()
            needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        except lmdb.Error as error:
            raise UserError(
                f"{self.root / DATA} is damaged ({error}): copy it again, or pack the scenes anew"
            ) from error
        if (size := (self.root / DATA).stat().st_size) < needed:
            raise UserError(f"{self.root / DATA} is truncated: {size} of {needed} bytes; copy it again")

    def _view(self, scene: str, view: int, size: int | None) -> Surface:
        path = f"{self.root}:{scene} view {view}"
        try:
            rgba, depth, normals = decode_view(self._value(view_key(scene, view)), self.size)
        except (zlib.error, ValueError) as error:
            raise Broken("damaged", path, str(error)) from error
        if size is None or size == self.size:
            return rgba, depth, normals
        refuse_larger(rgba, size, path)
        weight = rgba[..., 3] * np.float32(1 / 255) * (depth > 0)
        return resized(rgba, depth * weight, weight, np.ascontiguousarray(normals.transpose(2, 0, 1)), size)

    def _value(self, key: bytes) -> bytes:
        with self._environment().begin() as transaction:
            value: bytes | None = transaction.get(key)
        if value is None:
            scene, _, view = key.decode().partition("\0")
            raise Broken("missing view", f"{self.root}:{scene}", f"view {view or 'cameras'} is not packed")
        return value

    def _environment(self) -> lmdb.Environment:
        with _opening:
            if self.file not in _environments:
                _environments[self.file] = lmdb.open(
                    str(self.root), readonly=True, lock=False, readahead=False, max_spare_txns=16
                )
            return _environments[self.file]


_environments: dict[tuple[Path, int], lmdb.Environment] = {}  # LMDB wants a file to be opened once a process
_opening = Lock()


def _close_after_fork() -> None:
    """In a forked child, where an environment must not be used: readers hold no locks, so closing is safe."""
    global _opening
    _opening = Lock()
    for environment in _environments.values():
        environment.close()
    _environments.clear()


os.register_at_fork(after_in_child=_close_after_fork)


def camera_key(scene: str) -> bytes:
    return f"{scene}\0".encode()


def view_key(scene: str, view: int) -> bytes:
    return f"{scene}\0{view:05d}".encode()


def encode_cameras(camera_to_world: NDArray[np.float64], field_of_view: NDArray[np.float64]) -> bytes:
    return camera_to_world.astype("<f8").tobytes() + field_of_view.astype("<f8").tobytes()


def decode_cameras(content: bytes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Camera-to-world (view, 4, 4), fields of view (view,). Raises ValueError."""
    numbers = np.frombuffer(content, "<f8").astype(np.float64)
    views = len(numbers) // (POSE + 1)
    return numbers[: POSE * views].reshape(views, 4, 4), numbers[POSE * views :]


def encode_view(rgba: NDArray[np.uint8], depth: NDArray[np.float32], normals: NDArray[np.float32]) -> bytes:
    """One view (height, width, …). Color stays exact, hidden color included."""
    stored = rgba.any(-1)
    parts = (
        np.packbits(stored),
        rgba[stored],
        depth[stored].astype("<f2"),
        np.rint(normals[stored] * NORMAL).astype(np.int8),
    )
    return zlib.compress(b"".join(part.tobytes() for part in parts), LEVEL)


def decode_view(content: bytes, size: int) -> Surface:
    """RGBA, depth and normals of a square picture. Raises zlib.error and ValueError for what is damaged."""
    bits = -(-(size**2) // 8)
    decompressor, limit = zlib.decompressobj(), bits + 9 * size**2
    plain = decompressor.decompress(content, limit + 1)
    if not decompressor.eof:
        raise ValueError(f"a view that is cut short, or of more than {limit} bytes")
    where = np.flatnonzero(np.unpackbits(np.frombuffer(plain, np.uint8, bits), count=size**2))
    n = len(where)
    rgba = np.zeros(size**2, np.uint32)  # a pixel's four bytes at once
    depth = np.zeros(size**2, np.float32)
    normals = np.zeros((size**2, 3), np.float32)
    rgba[where] = np.frombuffer(plain, np.uint32, n, bits)
    depth[where] = np.frombuffer(plain, "<f2", n, bits + 4 * n)
    normals[where] = np.frombuffer(plain, np.int8, 3 * n, bits + 6 * n).reshape(n, 3) / NORMAL
    return rgba.view(np.uint8).reshape(size, size, 4), depth.reshape(size, size), normals.reshape(size, size, 3)
