"""Which scenes a run trains, validates and evaluates on: recorded before its first step, kept apart, never changed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from bench.data import broken
from bench.data.sampler import Sampler
from bench.errors import BadInput
from bench.record import SCENES, RunFolder, Writer, write_json

if TYPE_CHECKING:
    from bench.data.scene import DataSource
    from bench.spec.schema import RunSpec

log = logging.getLogger(__name__)


def used(spec: RunSpec, source: DataSource) -> dict[str, list[str]]:
    """{"training", "validation", "evaluation"}: the scenes of each. Raises BadInput when one is in two of them, unless
    overfitting is the point, and when there is none to train on (if anything is trained) or to evaluate."""
    sampler = Sampler(source, spec.views, spec.seed)
    scenes = {
        "training": list(sampler.training_scenes),
        "validation": list(source.scenes("validation")),
        "evaluation": list(sampler.evaluation_scenes(spec.evaluation.scenes)),
    }
    if not spec.train.steps:
        scenes |= {"training": [], "validation": []}
    for name in ("training", "evaluation") if spec.train.steps else ("evaluation",):
        if not scenes[name]:
            raise BadInput(f"data: there is no {name} scene")
    if not spec.views.overfit:
        _keep_apart(scenes)
    return scenes


def _keep_apart(scenes: Mapping[str, list[str]]) -> None:
    for one, other in (("training", "evaluation"), ("training", "validation"), ("validation", "evaluation")):
        if both := set(scenes[one]) & set(scenes[other]):
            raise BadInput(f"data: {len(both)} scenes are in {one} and in {other}, {min(both)} among them")


def settle(spec: RunSpec, source: DataSource, writer: Writer) -> dict[str, list[str]]:
    """Record a run's scenes; of one begun before, make sure that they are still the same. Raises BadInput."""
    scenes, folder = used(spec, source), RunFolder(writer.folder)
    if folder.scenes():
        compare(scenes, folder)
    else:
        content = {"data": spec.data.to_dict(), **scenes, "broken": []}
        writer.commit(SCENES, lambda path: write_json(path, content))
    return scenes


def compare(scenes: Mapping[str, list[str]], folder: RunFolder) -> None:
    """Raise BadInput for other scenes than those that a run has on record."""
    recorded = folder.scenes() or {}
    for name, found in scenes.items():
        if recorded.get(name, found) != found:
            raise BadInput(
                f"data: run {folder.id} was begun on {len(recorded[name])} {name} scenes, and now there are others "
                f"({len(found)}). Other data needs another name, data.version=NAME, which makes it another run; "
                "--force does this run anew"
            )


def note_broken(writer: Writer, sampler: Sampler) -> None:
    """Record the scenes that were drawn but could not be used."""
    content = RunFolder(writer.folder).scenes() if sampler.broken else None
    if content is None:
        return
    known = {row["scene"] for row in content["broken"]}
    new = {scene: defect for scene, defect in list(sampler.broken.items()) if scene not in known}
    if new:
        log.warning("scenes found broken and skipped: %d\n%s", len(new), broken.table(new))
        writer.commit(SCENES, lambda path: write_json(path, content | {"broken": content["broken"] + broken.rows(new)}))
