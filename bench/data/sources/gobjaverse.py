"""G-Objaverse, the paper's data, and whatever else lies in its format: raw folders, tars, or the packed form."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import UserError
from bench.data.scene import (
    DISTINCT_VIEWS,
    LARA_VIEWS,
    VIEWS,
    Split,
    is_gobjaverse,
)
from bench.data.storage import broken
from bench.data.storage.index import cache_folder
from bench.data.storage.open_store import open_store
from bench.data.storage.source import StoreSource
from bench.data.storage.store import Broken, Store
from models.parts import PartSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Spec(PartSpec):
    """Every `split_every`-th scene of the sorted list, from the first, is for evaluation: 11 is the paper's 10 : 1,
    10 is LaRa's rule. With `evaluation_root` its scenes are for evaluation instead, and all of `root` for training.

    Paths are no part of a run's id: name other data by another `version`.
    """

    version: str = "1"
    root: str | None = field(default=None, metadata={"identity": False})
    split_every: int = 11
    evaluation_root: str | None = field(default=None, metadata={"identity": "given", "legacy": None})
    scene_list: str | None = field(default=None, metadata={"identity": "given", "legacy": None})  # JSON: ["dict/inst"]
    validation_scenes: int = field(default=0, metadata={"legacy": 0})  # taken evenly from those for training
    scene_views: int = field(default=VIEWS, metadata={"legacy": VIEWS})  # of a whole raw scene

    at_least = {"split_every": 2, "validation_scenes": 0, "scene_views": 2}

    def missing(self) -> list[str]:
        """What keeps the data from being read, one sentence each."""
        paths = {"root": self.root, "evaluation_root": self.evaluation_root, "scene_list": self.scene_list}
        if self.root is None:
            return ["data: gobjaverse needs data.root=FOLDER (or train on procedural scenes with data=procedural)"]
        return [f"data.{name}: there is no {path}" for name, path in paths.items() if path and not Path(path).exists()]

    def distinct_views(self) -> int | None:
        """Of a scene of G-Objaverse; of others, known once they are read."""
        return DISTINCT_VIEWS if self.scene_views == VIEWS else None

    def open(self, image_size: int, progress: bool = True) -> GObjaverse:
        """Indexes the roots, once. Raises UserError."""
        if missing := self.missing():
            raise UserError("\n".join(missing))
        root, other = Path(self.root or ""), self.evaluation_root
        store = open_store(root, progress, self.scene_views)
        listed = read_list(Path(self.scene_list), store, root) if self.scene_list else list(store.scenes())
        splits = split(listed, self.split_every, self.validation_scenes, all_for_training=bool(other))
        stores = dict.fromkeys(listed, store)
        _report(root, self.scene_views, {s: b for s, b in store.broken().items() if s in stores})
        if other:
            evaluation = open_store(Path(other), progress, self.scene_views)
            splits["evaluation"] = list(evaluation.scenes())
            keep_apart(listed, splits["evaluation"], root, other)
            stores |= dict.fromkeys(splits["evaluation"], evaluation)
            _report(Path(other), self.scene_views, evaluation.broken())
        return GObjaverse("gobjaverse", self.version, stores, splits, image_size)


class GObjaverse(StoreSource):
    def usable_views(self, scene: str) -> NDArray[np.int64]:
        """The 38 of G-Objaverse's 40 that LaRa uses, without top and bottom; all of other cameras. Raises Broken."""
        return np.array(LARA_VIEWS) if is_gobjaverse(self.camera_centers(scene)) else super().usable_views(scene)


def split(scenes: Sequence[str], every: int, validation: int, all_for_training: bool) -> dict[Split, list[str]]:
    """The splits of a list that is sorted first; broken scenes count, so that a repaired file moves no other scene."""
    ordered = sorted(scenes)
    evaluation = [] if all_for_training else ordered[::every]
    reserved = set(evaluation)
    training = [scene for scene in ordered if scene not in reserved]
    if validation >= max(1, len(training)):
        raise UserError(f"data.validation_scenes: {validation} of {len(training)} scenes leave none to train on")
    chosen = [training[i * len(training) // validation] for i in range(validation)]
    reserved = set(chosen)
    return {"training": [s for s in training if s not in reserved], "validation": chosen, "evaluation": evaluation}


def keep_apart(training: Sequence[str], evaluation: Sequence[str], root: Path, other: str) -> None:
    """Raise UserError for scenes of both roots."""
    if both := set(evaluation) & set(training):
        raise UserError(
            f"data: {len(both)} scenes of {other} are also in {root}, {min(both)} among them: an evaluation "
            "scene is not to be trained on; take them out of data.root or of data.scene_list"
        )


def read_list(path: Path, store: Store, root: Path) -> list[str]:
    """A JSON list of "<dictionary>/<instance>", all of which the store holds. Raises UserError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"data.scene_list: {path} cannot be read as JSON: {error}") from error
    if not isinstance(content, list) or not content or not all(isinstance(name, str) for name in content):
        raise UserError(f'data.scene_list: {path} is not a JSON list of scenes such as "0/10005"')
    names = list(dict.fromkeys(name.strip("/") for name in content))
    if absent := sorted(set(names) - set(store.scenes())):
        raise UserError(f"{path} lists {len(absent)} scenes that {root} does not hold, {absent[0]} among them")
    return names


def _report(root: Path, views: int, defects: Mapping[str, Broken]) -> None:
    """Warn of the scenes that the index leaves out: a table, and all of them in a file of the cache."""
    if not defects:
        return
    path = cache_folder(root.resolve(), views) / "broken.csv"
    broken.write_csv(path, defects)
    log.warning("%s: scenes broken and skipped: %d (%s)\n%s", root, len(defects), path, broken.table(defects))
