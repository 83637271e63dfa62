"""Where G-Objaverse scenes lie: raw folders and tars, or the packed form. One interface to both, and what is broken.

A scene is named "<dictionary>/<instance>", with the folders above it in front where there are any. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from bench.data.scene import VIEWS, SceneData
from bench.errors import BadInput

PACKED = "packed.json"  # its presence marks a packed root; bench/data/packed.py says what it holds

Kind = Literal[
    "missing view",  # a numbered view is absent
    "missing file",  # of a view that is there
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


class Broken(BadInput):
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

        Raises Broken, and BadInput for a size above the stored one.
        """
        ...

    def camera_centres(self, scene: str) -> NDArray[np.float64]:
        """(view, 3) in the world, of all views of the scene. Raises Broken."""
        ...


def open_store(root: Path, progress: bool = True, views: int = VIEWS) -> Store:
    """The raw or packed scenes under `root`, indexed once. `views`: how many a whole raw scene has.

    Raises BadInput where there are none.
    """
    if not root.is_dir():
        raise BadInput(f"{root} is no folder: name the one that holds the scenes")
    if (root / PACKED).is_file():
        packed: Store = import_module("bench.data.packed").open_packed(root)
        return packed
    raw: Store = import_module("bench.data.raw").open_raw(root, progress, views)
    return raw
