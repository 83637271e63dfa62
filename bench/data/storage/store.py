"""The interface to scenes on disk, in any format, and the defects of a broken one. `open_store` opens them.

A scene of G-Objaverse is named "<dictionary>/<instance>", with the folders
above it in front where there are any. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import UserError
from bench.data.cache import ByteCache
from bench.data.scene import SceneData

FORMS = ("gobjaverse", "gso", "omniobject3d")  # file formats of data sets
PACKED = "packed.json"  # its presence marks a packed root; see bench/data/storage/packed.py
CAMERAS: ByteCache[Any] = ByteCache(share=1 / 4)  # cameras of scenes and where their files are

Kind = Literal[
    "missing view",  # a numbered view is absent
    "missing file",  # of a view that is there
    "unreadable",  # the file system refuses or fails to read it
    "bad name",  # not UTF-8, or too long
    "failed download",  # an XML or HTML body under a picture's or a tar's name
    "wrong magic",  # not the file that its name says
    "truncated",  # ends before its headers say
    "damaged",  # cannot be decoded otherwise
    "wrong size",  # pictures of a scene disagree
    "not finite",  # NaN or infinity in a camera, or in depth or normals where something is seen
    "zero camera",  # all axes 0
    "bad camera",  # axes that are no rotation, a field of view that is none
]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Broken(UserError):
    """A scene or one of its files cannot be used: what kind of defect, where, and the detail."""

    def __init__(self, kind: Kind, path: str | Path, detail: str) -> None:
        super().__init__(f"{kind}: {path}: {detail}")
        self.kind, self.path, self.detail = kind, str(path), detail


class Store(Protocol):
    """Scenes under one root."""

    def scenes(self) -> Sequence[str]:
        """Every scene that the root holds, sorted, broken ones among them."""
        ...

    def broken(self) -> Mapping[str, Broken]:
        """Scene → what is known to be wrong with it without reading its pictures."""
        ...

    def read(self, scene: str, views: Sequence[int], size: int | None = None) -> SceneData:
        """These views in this order, resized to `size` pixels a side; None: as they are stored.

        Raises Broken, and UserError for a size above the stored one.
        """
        ...

    def cameras(self, scene: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Camera-to-world (view, 4, 4) and horizontal fields of view (view,), of all views. Raises Broken."""
        ...
