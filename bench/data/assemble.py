"""Samples → one batch in the models' frame. Arithmetic over all scenes of the batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.data.batch import Batch
from bench.data.frames import Frame, in_frame, world_to_frame
from bench.data.scene import SceneData
from models.ead import KnownCameras
from models.tensors import Cameras, Views

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Sample:
    """A scene and its views: `data` holds the inputs, then the targets; `background` is the gray behind the targets."""

    scene: str
    inputs: tuple[int, ...]
    targets: tuple[int, ...]
    background: float
    data: SceneData


def assemble(samples: Sequence[Sample], frame: Frame, known: KnownCameras) -> Batch:
    """One batch, whose `inputs` carry what is `known` of their cameras. Samples agree in their numbers of inputs and
    targets and in image size."""
    n = len(samples[0].inputs)
    images = np.stack([sample.data.images for sample in samples])
    alpha = images[..., 3].astype(np.float32) / np.float32(255)
    world_to_camera, scales = _cameras(samples, frame)
    depth = np.stack([sample.data.depth for sample in samples]) * scales.astype(np.float32)[:, None, None, None]
    intrinsics = np.stack([sample.data.intrinsics for sample in samples])
    gray = np.array([sample.background for sample in samples], np.float32)
    mask = (alpha[:, :n] > 0.5) & (depth[:, :n] > 0)
    points = _unproject(depth[:, :n], world_to_camera[:, :n], intrinsics[:, :n]) * mask[..., None]
    height, width = alpha.shape[2:]
    matrices, pixels = _tensor(world_to_camera.astype(np.float32)), _tensor(intrinsics.astype(np.float32))
    input_cameras = Cameras(matrices[:, :n], pixels[:, :n], height, width)
    return Batch(
        scenes=tuple(sample.scene for sample in samples),
        input_views=_tensor(np.array([sample.inputs for sample in samples])),
        target_views=_tensor(np.array([sample.targets for sample in samples])),
        inputs=Views(
            _tensor(_composite(images[:, :n], alpha[:, :n], np.ones_like(gray))),
            cameras=input_cameras if known == "cameras" else None,
            intrinsics=input_cameras.intrinsics if known == "intrinsics" else None,
        ),
        input_cameras=input_cameras,
        input_alpha=_tensor(alpha)[:, :n],
        input_points=_tensor(points.astype(np.float32)),
        input_mask=_tensor(mask),
        targets=_tensor(_composite(images[:, n:], alpha[:, n:], gray)),
        target_alpha=_tensor(alpha)[:, n:],
        target_depth=_tensor(np.ascontiguousarray(depth[:, n:])),
        target_cameras=Cameras(matrices[:, n:], pixels[:, n:], height, width),
        background=_tensor(np.repeat(gray, 3 * len(samples[0].targets)).reshape(len(samples), -1, 3)),
    )


def _tensor(array: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(array)


def _cameras(samples: Sequence[Sample], frame: Frame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """World-to-camera (batch, view, 4, 4) from the frames of the first inputs, and the frames' scales (batch,)."""
    frames = [world_to_frame(sample.data.camera_to_world[0], frame) for sample in samples]
    poses = [in_frame(sample.data.camera_to_world, to) for sample, to in zip(samples, frames, strict=True)]
    return np.stack(poses), np.array([to.scale for to in frames])


def _composite(images: NDArray[np.uint8], alpha: Floats, gray: Floats) -> Floats:
    """(batch, view, 3, height, width) RGB over each scene's gray."""
    behind = gray[:, None, None, None] * (1 - alpha)
    composed = np.empty((*alpha.shape[:2], 3, *alpha.shape[2:]), np.float32)
    for i in range(3):
        composed[:, :, i] = images[..., i].astype(np.float32) / 255 * alpha + behind
    return composed


def _unproject(
    depth: Floats, world_to_camera: NDArray[np.float64], intrinsics: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(batch, view, height, width, 3): the point behind every pixel's center, in the frame.

    Plane by plane: einsum over the last axis of such arrays takes five times as long, for the same bits.
    """
    height, width = depth.shape[-2:]
    y, x = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    focal, center = intrinsics[..., 0, 0], intrinsics[..., :2, 2]
    rotation, translation = world_to_camera[..., :3, :3], world_to_camera[..., :3, 3]
    rays = ((x - _each(center[..., 0])) / _each(focal), (y - _each(center[..., 1])) / _each(focal), 1)
    local = [ray * depth - _each(translation[..., i]) for i, ray in enumerate(rays)]
    points = np.empty((*depth.shape, 3))
    for i in range(3):
        turned = [plane * _each(rotation[..., j, i]) for j, plane in enumerate(local)]
        points[..., i] = turned[0] + turned[1] + turned[2]
    return points


def _each(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(batch, view) → (batch, view, 1, 1), to go with images."""
    return values[..., None, None]
