"""G-Objaverse, the paper's data, and whatever else lies in its format: raw folders, tars, or the packed form."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.data import broken
from bench.data.index import cache_folder
from bench.data.scene import VIEWS, SceneData, Split
from bench.data.store import Broken, Store, open_store
from bench.errors import BadInput
from models.parts import PartSpec

MEMORY = 2**29  # bytes of resized views kept, so that small images are decoded once
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

    def missing(self) -> list[str]:
        """What keeps the data from being read, one sentence each."""
        paths = {"root": self.root, "evaluation_root": self.evaluation_root, "scene_list": self.scene_list}
        if self.root is None:
            return ["data: gobjaverse needs data.root=FOLDER (or train on procedural scenes with data=procedural)"]
        return [f"data.{name}: there is no {path}" for name, path in paths.items() if path and not Path(path).exists()]

    def open(self, image_size: int, progress: bool = True) -> GObjaverse:
        """Indexes the roots, once. Raises BadInput."""
        if missing := self.missing():
            raise BadInput("\n".join(missing))
        return GObjaverse(self, image_size, progress)


class GObjaverse:
    """Scene ids are "<dictionary>/<instance>"."""

    name = "gobjaverse"

    def __init__(self, spec: Spec, image_size: int, progress: bool) -> None:
        self.version, self.image_size = spec.version, image_size
        root, other = Path(spec.root or ""), spec.evaluation_root
        store = open_store(root, progress, spec.scene_views)
        listed = read_list(Path(spec.scene_list)) if spec.scene_list else list(store.scenes())
        self._check_list(spec, store, listed)
        self.stores: dict[str, Store] = dict.fromkeys(listed, store)
        splits = split(listed, spec.split_every, spec.validation_scenes, all_for_training=bool(other))
        _report(root, spec.scene_views, {s: b for s, b in store.broken().items() if s in self.stores})
        unusable = set(store.broken())
        if other:
            evaluation = open_store(Path(other), progress, spec.scene_views)
            splits["evaluation"] = list(evaluation.scenes())
            if both := set(splits["evaluation"]) & set(listed):
                raise BadInput(
                    f"data: {len(both)} scenes of {other} are also in {root}, {min(both)} among them: an evaluation "
                    "scene is not to be trained on; take them out of data.root or of data.scene_list"
                )
            _report(Path(other), spec.scene_views, evaluation.broken())
            self.stores |= dict.fromkeys(splits["evaluation"], evaluation)
            unusable |= set(evaluation.broken())
        self._splits = {name: [s for s in scenes if s not in unusable] for name, scenes in splits.items()}
        self._view = lru_cache(max(1, MEMORY // (20 * image_size**2)))(self._read_view)

    def scenes(self, split: Split) -> Sequence[str]:
        return self._splits[split]

    def read(self, scene: str, views: Sequence[int]) -> SceneData:
        """Raises Broken."""
        read = [self._view(scene, view) for view in views]
        return SceneData(
            images=np.concatenate([data.images for data in read]),
            depth=np.concatenate([data.depth for data in read]),
            normals=np.concatenate([data.normals for data in read]),
            camera_to_world=np.concatenate([data.camera_to_world for data in read]),
            field_of_view=np.concatenate([data.field_of_view for data in read]),
        )

    def camera_centres(self, scene: str) -> NDArray[np.float64]:
        """Raises Broken."""
        return self.stores[scene].camera_centres(scene)

    def _read_view(self, scene: str, view: int) -> SceneData:
        return self.stores[scene].read(scene, [view], self.image_size)

    def _check_list(self, spec: Spec, store: Store, listed: Sequence[str]) -> None:
        if absent := sorted(set(listed) - set(store.scenes())):
            raise BadInput(
                f"{spec.scene_list} lists {len(absent)} scenes that {spec.root} does not hold, {absent[0]} among them"
            )


def split(scenes: Sequence[str], every: int, validation: int, all_for_training: bool) -> dict[Split, list[str]]:
    """The splits of a list that is sorted first; broken scenes count, so that a repaired file moves no other scene."""
    ordered = sorted(scenes)
    evaluation = [] if all_for_training else ordered[::every]
    held = set(evaluation)
    training = [scene for scene in ordered if scene not in held]
    if validation >= max(1, len(training)):
        raise BadInput(f"data.validation_scenes: {validation} of {len(training)} scenes leave none to train on")
    taken = [training[i * len(training) // validation] for i in range(validation)]
    held = set(taken)
    return {"training": [s for s in training if s not in held], "validation": taken, "evaluation": evaluation}


def read_list(path: Path) -> list[str]:
    """A JSON list of "<dictionary>/<instance>". Raises BadInput."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"data.scene_list: {path} cannot be read as JSON: {error}") from error
    if not isinstance(content, list) or not content or not all(isinstance(name, str) for name in content):
        raise BadInput(f'data.scene_list: {path} is not a JSON list of scenes such as "0/10005"')
    return list(dict.fromkeys(name.strip("/") for name in content))


def _report(root: Path, views: int, found: Mapping[str, Broken]) -> None:
    """Which scenes the index leaves out, as a table, with all of them in a file of the cache."""
    if not found:
        return
    path = cache_folder(root.resolve(), views) / "broken.csv"
    broken.write_csv(path, found)
    log.warning("%s: %d scenes are broken and skipped (%s):\n%s", root, len(found), path, broken.table(found))
