"""Open a folder of scenes: G-Objaverse's folders and tars, other data sets' renderings, or the packed form of any.

Each format is imported when it is read: loading a spec needs none of them.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from bench.common.errors import UserError
from bench.data.scene import VIEWS
from bench.data.storage.store import FORMS, PACKED, Store


def open_store(root: Path, progress: bool = True, views: int = VIEWS, form: str = FORMS[0]) -> Store:
    """The scenes under `root`, packed or in the form of one of FORMS. `views`: of a whole scene of G-Objaverse.

    Raises UserError where there are none.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: name the one that holds the scenes")
    if (root / PACKED).is_file():
        from bench.data.storage.packed import open_packed

        return open_packed(root)
    if form != "gobjaverse":
        from bench.data.storage.transforms import Transforms

        return Transforms(root, import_module(f"bench.data.sources.{form}").Spec().layout())
    from bench.data.storage.raw import open_raw

    return open_raw(root, progress, views)
