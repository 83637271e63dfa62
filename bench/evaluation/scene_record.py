"""The scenes that a run trains, validates and evaluates on: recorded before its first step, disjoint, fixed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np

from bench.common.errors import UserError
from bench.common.json_files import write_json
from bench.config.schema import RunSpec
from bench.data.sampler import Sampler
from bench.data.scene import DataSource
from bench.data.storage import broken
from bench.data.storage.store import Broken
from bench.runs.folder import SCENES, RunFolder
from bench.runs.writer import Writer

log = logging.getLogger(__name__)

FINGERPRINTED_SCENES = 16  # scenes of training, and of evaluation
TOLERANCE = 0.01  # of an image's mean color or alpha, in [0, 1]: more than another resizing filter changes


def resolve_splits(spec: RunSpec, source: DataSource) -> dict[str, list[str]]:
    """{"training", "validation", "evaluation"}: the scenes of each. Raises UserError when one is in two of them, unless
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
            everything = f"all {len(source.scenes('evaluation'))} scenes of {source.name} are for evaluation"
            remedy = "data.split_every=N evaluates on every N-th"
            reason = f"{everything}; {remedy}" if name == "training" else "none is usable"
            raise UserError(f"data: there is no {name} scene: {reason}")
    if not spec.views.overfit:
        _require_disjoint(scenes)
    return scenes


def _require_disjoint(scenes: Mapping[str, list[str]]) -> None:
    for one, other in (("training", "evaluation"), ("training", "validation"), ("validation", "evaluation")):
        if both := set(scenes[one]) & set(scenes[other]):
            raise UserError(f"data: {len(both)} scenes are in {one} and in {other}, {min(both)} among them")


def preflight(spec: RunSpec, source: DataSource) -> None:
    """Raise UserError for what would end a run at its first batch: no scenes, too few pixels, cameras of no rig."""
    scenes, sampler = resolve_splits(spec, source), Sampler(source, spec.views, spec.seed)
    for scene in (*scenes["training"][:1], *scenes["evaluation"][:1]):
        with suppress(Broken):  # skipped and reported when the run reads it
            sampler.evaluation([scene])


def scene_fingerprints(source: DataSource, scenes: Sequence[str]) -> dict[str, list[float]]:
    """Scene → mean red, green, blue (times alpha) and alpha of two of its views, in [0, 1].

    They show whether a name still means the same scene, wherever it is stored and however it is packed.
    """
    fingerprints = {}
    for scene in scenes:
        with suppress(Broken):
            rgba = source.read(scene, (0, len(source.camera_centers(scene)) // 2)).images / 255
            rgba[..., :3] *= rgba[..., 3:]
            fingerprints[scene] = np.round(rgba.mean(axis=(1, 2)), 4).ravel().tolist()
    return fingerprints


def _subset(scenes: Mapping[str, Sequence[str]]) -> list[str]:
    """A few of each split, evenly."""
    parts = (scenes["training"], scenes["evaluation"])
    return [scene for part in parts for scene in part[:: max(1, -(-len(part) // FINGERPRINTED_SCENES))]]


def record_or_verify_scenes(spec: RunSpec, source: DataSource, writer: Writer) -> dict[str, list[str]]:
    """Record a run's scenes; of a resumed run, verify that they are unchanged. Raises UserError."""
    scenes, folder = resolve_splits(spec, source), RunFolder(writer.folder)
    if folder.scenes():
        verify_unchanged(scenes, folder, source)
    else:
        content = {
            "data": spec.data.to_dict(),
            **scenes,
            "broken": [],
            "glance": scene_fingerprints(source, _subset(scenes)),
        }
        writer.commit(SCENES, lambda path: write_json(path, content))
    return scenes


def verify_unchanged(scenes: Mapping[str, list[str]], folder: RunFolder, source: DataSource) -> None:
    """Raise UserError where the scene lists differ from a run's record, or a name means another scene than before."""
    recorded = folder.scenes() or {}
    remedy = "name the new data with data.version=NAME, which makes it another run, or pass --force to restart this one"
    for name, current in scenes.items():
        if recorded.get(name, current) != current:
            raise UserError(
                f"data: run {folder.id} was started with {len(recorded[name])} {name} scenes; "
                f"the scene list has changed (now {len(current)}): {remedy}"
            )
    before = recorded.get("glance", {})
    now = scene_fingerprints(source, list(before))
    changed = [scene for scene in now if np.abs(np.subtract(now[scene], before[scene])).max() > TOLERANCE]
    if changed:
        raise UserError(f"data: the images of scene {changed[0]} have changed since run {folder.id} started: {remedy}")


def record_broken(writer: Writer, sampler: Sampler) -> None:
    """Record the scenes that were drawn but are unusable."""
    content = RunFolder(writer.folder).scenes() if sampler.broken else None
    if content is None:
        return
    known = {row["scene"] for row in content["broken"]}
    new = {scene: defect for scene, defect in list(sampler.broken.items()) if scene not in known}
    if new:
        log.warning("broken scenes skipped: %d\n%s", len(new), broken.table(new))
        writer.commit(SCENES, lambda path: write_json(path, content | {"broken": content["broken"] + broken.rows(new)}))
