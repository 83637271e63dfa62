"""Scenes → batches. Sample i of step s depends on (seed, s, i) alone: never on worker, rank or micro-batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from bench.data.batch import Batch
from bench.data.choices import Choice, Stage
from bench.data.frames import in_frame, world_to_frame
from bench.data.scene import DataSource, SceneData
from models.tensors import Cameras, Views

if TYPE_CHECKING:
    from bench.spec.schema import RunSpec
    from bench.spec.schema import Views as ViewsSpec

GREYS = (0.0, 0.5, 1.0)  # LaRa's backgrounds of training targets
Sample = dict[str, NDArray[Any]]


class Sampler:
    """Draws views of scenes and puts them into the frame."""

    def __init__(self, source: DataSource, views: ViewsSpec, seed: int, poses: str = "unknown") -> None:
        self.source, self.views, self.seed, self.poses = source, views, seed, poses
        self.training_scenes = source.scenes("training")
        if views.overfit:
            self.training_scenes = self.training_scenes[: views.overfit]

    def training(self, step: int, indices: Sequence[int]) -> Batch:
        """Samples `indices` of a step."""
        return self._batch([self._training_sample(step, index) for index in indices])

    def evaluation(self, scenes: Sequence[str]) -> Batch:
        """The fixed views of these scenes, targets on white."""
        random = np.random.default_rng(0)
        return self._batch([self._sample(scene, "evaluation", random, 1.0) for scene in scenes])

    def evaluation_scenes(self, limit: int | None) -> Sequence[str]:
        """The first `limit` of the evaluation split; when overfitting, the scenes trained on."""
        if self.views.overfit:
            return self.training_scenes
        return self.source.scenes("evaluation")[:limit]

    def _training_sample(self, step: int, index: int) -> tuple[str, Sample]:
        if self.views.overfit:
            return self._sample(self.training_scenes[index % len(self.training_scenes)], "evaluation", None, 1.0)
        random = np.random.default_rng([self.seed, step, index])
        scene = self.training_scenes[int(random.integers(len(self.training_scenes)))]
        grey = 1.0 if self.views.background == "white" else GREYS[int(random.integers(len(GREYS)))]
        return self._sample(scene, "training", random, grey)

    def _sample(
        self, scene: str, stage: Stage, random: np.random.Generator | None, background: float
    ) -> tuple[str, Sample]:
        choice = cast(Choice, self.views.choice)
        inputs, targets = choice.choose(
            self.source.camera_centres(scene),
            inputs=self.views.inputs,
            targets=self.views.targets,
            stage=stage,
            random=random or np.random.default_rng(0),
        )
        data = self.source.read(scene, (*inputs, *targets))
        to = world_to_frame(data.camera_to_world[0], self.views.frame)
        cameras = in_frame(data.camera_to_world, to)
        depth, alpha = data.depth * np.float32(to.scale), data.images[..., 3].astype(np.float32) / 255
        n = len(inputs)
        mask = (alpha[:n] > 0.5) & (depth[:n] > 0)
        points = _unproject(depth[:n], cameras[:n], data.intrinsics[:n]) * mask[..., None]
        return scene, {
            "input_views": np.array(inputs),
            "target_views": np.array(targets),
            "images": _composite(data, slice(None, n), 1.0),
            "targets": _composite(data, slice(n, None), background),
            "alpha": alpha,
            "depth": depth[n:],
            "points": points.astype(np.float32),
            "mask": mask,
            "cameras": cameras.astype(np.float32),
            "intrinsics": data.intrinsics.astype(np.float32),
            "background": np.full((len(targets), 3), background, dtype=np.float32),
        }

    def _batch(self, samples: Sequence[tuple[str, Sample]]) -> Batch:
        stacked = {key: torch.from_numpy(np.stack([s[key] for _, s in samples])) for key in samples[0][1]}
        n, size = self.views.inputs, stacked["images"].shape[-1]

        def cameras(part: slice) -> Cameras:
            return Cameras(stacked["cameras"][:, part], stacked["intrinsics"][:, part], size, size)

        known = cameras(slice(None, n)) if self.poses == "known" else None
        return Batch(
            scenes=tuple(scene for scene, _ in samples),
            input_views=stacked["input_views"],
            target_views=stacked["target_views"],
            inputs=Views(stacked["images"], known),
            input_cameras=cameras(slice(None, n)),
            input_alpha=stacked["alpha"][:, :n],
            input_points=stacked["points"],
            input_mask=stacked["mask"],
            targets=stacked["targets"],
            target_alpha=stacked["alpha"][:, n:],
            target_depth=stacked["depth"],
            target_cameras=cameras(slice(n, None)),
            background=stacked["background"],
        )


def open_source(spec: RunSpec, progress: bool = True) -> DataSource:
    """The data of a spec at its model's image size. Raises BadInput."""
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


def _composite(data: SceneData, part: slice, background: float) -> NDArray[np.float32]:
    """(view, 3, height, width) RGB over a grey."""
    rgba = data.images[part].astype(np.float32) / 255
    rgb = rgba[..., :3] * rgba[..., 3:] + background * (1 - rgba[..., 3:])
    return np.ascontiguousarray(rgb.transpose(0, 3, 1, 2))


def _unproject(
    depth: NDArray[np.float32], world_to_camera: NDArray[np.float64], intrinsics: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(view, height, width, 3): the point behind every pixel's centre, in the frame."""
    height, width = depth.shape[1:]
    y, x = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    focal, centre = intrinsics[:, 0, 0, None, None], intrinsics[:, :2, 2]
    rays = [(x - centre[:, 0, None, None]) / focal, (y - centre[:, 1, None, None]) / focal, np.ones_like(depth)]
    local = np.stack(rays, -1) * depth[..., None] - world_to_camera[:, None, None, :3, 3]
    points: NDArray[np.float64] = np.einsum("vhwj,vji->vhwi", local, world_to_camera[:, :3, :3])
    return points
