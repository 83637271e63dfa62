"""A batch of scenes: the input of training and evaluation."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from models.tensors import Cameras, TensorDataclass, Views


@dataclass(frozen=True)
class Batch(TensorDataclass):
    """Cameras, points and depths are in the frame of `views.frame`."""

    scenes: tuple[str, ...]
    input_views: Int[Tensor, "batch view"]
    target_views: Int[Tensor, "batch target"]
    inputs: Views  # images on white
    input_cameras: Cameras
    input_alpha: Float[Tensor, "batch view height width"]
    input_points: Float[Tensor, "batch view height width 3"]  # the true surface; 0 outside the mask
    input_mask: Bool[Tensor, "batch view height width"]  # foreground: alpha above one half, depth known
    targets: Float[Tensor, "batch target 3 height width"]  # on `background`
    target_alpha: Float[Tensor, "batch target height width"]
    target_depth: Float[Tensor, "batch target height width"]  # along the optical axis, 0 where nothing is
    target_cameras: Cameras
    background: Float[Tensor, "batch target 3"]

    def scenes_at(self, start: int, stop: int) -> Batch:
        """A micro-batch: scenes `start` to `stop`."""
        cut: dict[str, Any] = {f.name: _cut(getattr(self, f.name), start, stop) for f in fields(self)}
        return Batch(**cut)

    def targets_at(self, start: int, stop: int) -> Batch:
        """The same scenes with their target views `start` to `stop` alone."""
        names = ("target_views", "targets", "target_alpha", "target_depth", "background")
        cut: dict[str, Any] = {name: getattr(self, name)[:, start:stop] for name in names}
        whole = self.target_cameras
        cameras = replace(
            whole,
            world_to_camera=whole.world_to_camera[:, start:stop],
            intrinsics=whole.intrinsics[:, start:stop],
        )
        return replace(self, target_cameras=cameras, **cut)


def _cut(value: Any, start: int, stop: int) -> Any:
    if isinstance(value, Views | Cameras):
        return type(value)(**{f.name: _cut(getattr(value, f.name), start, stop) for f in fields(value)})
    return value[start:stop] if isinstance(value, Tensor | tuple) else value
