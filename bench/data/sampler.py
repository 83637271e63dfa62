"""Scenes → batches. Sample i of step s depends on (seed, s, i) alone: never on worker, rank or micro-batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, cast

import numpy as np

from bench.common.errors import UserError
from bench.data.assemble import Sample, assemble
from bench.data.batch import Batch
from bench.data.scene import DataSource
from bench.data.storage.store import Broken
from bench.data.view_selection import Stage, ViewSelection

if TYPE_CHECKING:
    from bench.config.schema import RunSpec
    from bench.config.schema import ViewsSpec as ViewsSpec

GRAYS = (0.0, 0.5, 1.0)  # LaRa's backgrounds of training targets
WHITE = 1.0
REDRAWS = 100  # broken scenes in a row, before giving up


class Sampler:
    """Draws views of scenes and puts them into the frame. `broken`: the scenes that were skipped, with the defect."""

    def __init__(self, source: DataSource, views: ViewsSpec, seed: int, poses: str = "unknown") -> None:
        self.source, self.views, self.seed, self.poses = source, views, seed, poses
        self.training_scenes = source.scenes("training")
        self.broken: dict[str, Broken] = {}
        if views.overfit:
            self.training_scenes = self.training_scenes[: views.overfit]

    def training(self, step: int, indices: Sequence[int]) -> Batch:
        """Samples `indices` of a step; in a broken scene's place stands the next that the sample's own dice give."""
        return self._batch([self._training_draw(step, index) for index in indices])

    def evaluation(self, scenes: Sequence[str], background: float = WHITE) -> Batch:
        """The fixed views of these scenes, targets on a gray `background` in [0, 1]. Raises Broken."""
        return self._batch([self._evaluation_draw(scene, background) for scene in scenes])

    def evaluation_batches(self, scenes: Sequence[str], size: int, background: float = WHITE) -> Iterator[Batch]:
        """The same, up to `size` scenes at a time, without those that are broken."""
        for start in range(0, len(scenes), size):
            draws = []
            for scene in scenes[start : start + size]:
                try:
                    draws.append(self._evaluation_draw(scene, background))
                except Broken as broken:
                    self.broken[scene] = broken
            if draws:
                yield self._batch(draws)

    def evaluation_scenes(self, limit: int | None) -> Sequence[str]:
        """The first `limit` of the evaluation split; when overfitting, the scenes trained on."""
        if self.views.overfit:
            return self.training_scenes
        return self.source.scenes("evaluation")[:limit]

    def _training_draw(self, step: int, index: int) -> Sample:
        if self.views.overfit:
            return self._evaluation_draw(self.training_scenes[index % len(self.training_scenes)])
        random = np.random.default_rng([self.seed, step, index])
        for _ in range(REDRAWS):
            scene = self.training_scenes[int(random.integers(len(self.training_scenes)))]
            gray = WHITE if self.views.background == "white" else GRAYS[int(random.integers(len(GRAYS)))]
            try:
                return self._draw(scene, "training", random, gray)
            except Broken as broken:
                self.broken[scene] = last = broken
        raise UserError(f"data: {REDRAWS} scenes drawn one after another are broken, the last: {last}")

    def _evaluation_draw(self, scene: str, background: float = WHITE) -> Sample:
        return self._draw(scene, "evaluation", np.random.default_rng(0), background)

    def _draw(self, scene: str, stage: Stage, random: np.random.Generator, background: float) -> Sample:
        choice = cast(ViewSelection, self.views.choice)
        inputs, targets = choice.select(
            self.source.camera_centers(scene),
            self.source.usable_views(scene),
            inputs=self.views.inputs,
            targets=self.views.targets,
            stage=stage,
            random=random,
        )
        return Sample(scene, inputs, targets, background, self.source.read(scene, (*inputs, *targets)))

    def _batch(self, draws: Sequence[Sample]) -> Batch:
        return assemble(draws, self.views.frame, self.poses == "known")


def open_source(spec: RunSpec, progress: bool = True) -> DataSource:
    """The data of a spec at its model's image size. Raises UserError."""
    source: DataSource = spec.data.open(spec.model.image_size, progress)  # type: ignore[attr-defined]
    return source


def batches(sampler: Sampler, steps: range, indices: Sequence[int], ahead: int = 2) -> Iterator[Batch]:
    """The batches of `steps` in order, made up to `ahead` steps early by a thread beside the training."""
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        queue = [pool.submit(sampler.training, step, indices) for step in steps[:ahead]]
        for step in steps:
            batch = queue.pop(0).result()
            if step + ahead in steps:
                queue.append(pool.submit(sampler.training, step + ahead, indices))
            yield batch
