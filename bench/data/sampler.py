"""Scenes → batches. Sample i of step s depends on (seed, s, i) alone: never on worker, rank or micro-batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bench.common.errors import UserError
from bench.data.assemble import Sample, assemble
from bench.data.batch import Batch
from bench.data.scene import DataSource
from bench.data.storage.store import Broken
from bench.data.view_selection import Stage, ViewsSpec
from models.ead import KnownCameras
from models.parts import PartSpec

GRAYS = (0.0, 0.5, 1.0)  # LaRa's backgrounds of training targets
WHITE = 1.0
REDRAWS = 100  # broken scenes in a row, before giving up


class Sampler:
    """Draws views of scenes and puts them into the frame. `broken`: the scenes that were skipped, with the defect.

    `known`: what the model may read of the inputs' cameras (EADSpec.known).
    """

    def __init__(self, source: DataSource, views: ViewsSpec, seed: int, known: KnownCameras = "nothing") -> None:
        self.source, self.views, self.seed, self.known = source, views, seed, known
        self.training_scenes = source.scenes("training")
        self.broken: dict[str, Broken] = {}
        if views.overfit:
            self.training_scenes = self.training_scenes[: views.overfit]

    def training(self, step: int, indices: Sequence[int]) -> Batch:
        """Samples `indices` of a step; a broken scene is replaced by the next of the sample's own random numbers."""
        return self._batch([self._training_sample(step, index) for index in indices])

    def evaluation(self, scenes: Sequence[str], background: float = WHITE) -> Batch:
        """The fixed views of these scenes, targets on a gray `background` in [0, 1]. Raises Broken."""
        return self._batch([self._evaluation_sample(scene, background) for scene in scenes])

    def evaluation_batches(self, scenes: Sequence[str], size: int, background: float = WHITE) -> Iterator[Batch]:
        """The same, up to `size` scenes at a time, without those that are broken."""
        for start in range(0, len(scenes), size):
            samples = []
            for scene in scenes[start : start + size]:
                try:
                    samples.append(self._evaluation_sample(scene, background))
                except Broken as broken:
                    self.broken[scene] = broken
            if samples:
                yield self._batch(samples)

    def evaluation_scenes(self, limit: int | None) -> Sequence[str]:
        """The first `limit` of the evaluation split; when overfitting, the scenes trained on."""
        if self.views.overfit:
            return self.training_scenes
        return self.source.scenes("evaluation")[:limit]

    def _training_sample(self, step: int, index: int) -> Sample:
        if self.views.overfit:
            return self._evaluation_sample(self.training_scenes[index % len(self.training_scenes)])
        random = np.random.default_rng([self.seed, step, index])
        for _ in range(REDRAWS):
            scene = self.training_scenes[int(random.integers(len(self.training_scenes)))]
            gray = WHITE if self.views.background == "white" else GRAYS[int(random.integers(len(GRAYS)))]
            try:
                return self._sample(scene, "training", random, gray)
            except Broken as broken:
                self.broken[scene] = last = broken
        raise UserError(f"data: {REDRAWS} scenes drawn one after another are broken, the last: {last}")

    def _evaluation_sample(self, scene: str, background: float = WHITE) -> Sample:
        return self._sample(scene, "evaluation", np.random.default_rng(0), background)

    def _sample(self, scene: str, stage: Stage, random: np.random.Generator, background: float) -> Sample:
        views = self.views
        training_targets = views.training_targets if stage == "training" else None
        inputs, targets = views.choice.select(
            self.source.camera_centers(scene),
            self.source.usable_views(scene),
            inputs=views.inputs,
            targets=training_targets or views.targets,
            stage=stage,
            random=random,
        )
        return Sample(scene, inputs, targets, background, self.source.read(scene, (*inputs, *targets)))

    def _batch(self, samples: Sequence[Sample]) -> Batch:
        return assemble(samples, self.views.frame, self.known)


def open_source(data: PartSpec, image_size: int, progress: bool = True) -> DataSource:
    """A data source by its spec (bench/data/sources/), its pictures `image_size` pixels a side. Raises UserError."""
    source: DataSource = data.open(image_size, progress)  # type: ignore[attr-defined]
    return source


def batches(sampler: Sampler, steps: range, indices: Sequence[int], ahead: int = 2) -> Iterator[Batch]:
    """The batches of `steps` in order, computed up to `ahead` steps early by a thread beside the training."""
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        queue = [pool.submit(sampler.training, step, indices) for step in steps[:ahead]]
        for step in steps:
            batch = queue.pop(0).result()
            if step + ahead in steps:
                queue.append(pool.submit(sampler.training, step + ahead, indices))
            yield batch
