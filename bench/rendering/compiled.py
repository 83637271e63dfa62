"""The C++ back end as PyTorch operators: one for the forward pass, one for its gradients.

Deterministic: equal inputs give bitwise equal results, whatever the number of threads (torch.get_num_threads()).
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bench.rendering import kernel
from bench.rendering.interface import Layers, RasterInput

SPLAT, BOUNDS = 10, 4  # numbers of a Splat and of its Bounds (projection.cpp)
INPUTS = ("means", "rotations", "scales", "opacities", "colors", "world_to_camera", "intrinsics")


class _Job(ctypes.Structure):
    """`Job` of rasterize.cpp."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in INPUTS),
        *((name, ctypes.c_int) for name in ("scenes", "views", "color_views", "width", "height")),
        ("count", ctypes.c_int64),
        ("near", ctypes.c_float),
        ("far", ctypes.c_float),
        ("threads", ctypes.c_int),
    ]


def _call(function: str, inputs: Sequence[Tensor], size: Sequence[float], others: Sequence[Tensor]) -> None:
    """Call the kernel on contiguous float32 CPU tensors; `size` is width, height, near, far."""
    batch, view = inputs[5].shape[:2]
    width, height, near, far = size
    job = _Job(
        *(tensor.data_ptr() for tensor in inputs),
        *(batch, view, inputs[4].shape[1], int(width), int(height)),
        *(inputs[0].shape[1], near, far, torch.get_num_threads()),
    )
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in others]
    getattr(kernel.library(), function)(ctypes.byref(job), *pointers)


def _outputs(means: Tensor, world_to_camera: Tensor, width: int, height: int) -> list[Tensor]:
    batch, view, count = *world_to_camera.shape[:2], means.shape[1]
    return [
        means.new_empty(batch, view, 5, height, width),
        means.new_empty(batch, view, height, width, dtype=torch.int32),
        means.new_empty(batch, view, count, SPLAT),
        means.new_empty(batch, view, count, BOUNDS, dtype=torch.int16),
        means.new_empty(batch, view, count, dtype=torch.int32),
        means.new_empty(batch, view, dtype=torch.int32),
    ]


@torch.library.custom_op("ead_bench::rasterize", mutates_args=(), device_types="cpu")
def _rasterize(
    means: Tensor,
    rotations: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    world_to_camera: Tensor,
    intrinsics: Tensor,
    width: int,
    height: int,
    near: float,
    far: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs = [t.contiguous() for t in (means, rotations, scales, opacities, colors, world_to_camera, intrinsics)]
    image, last, splats, bounds, order, counts = _outputs(means, world_to_camera, width, height)
    _call("rasterize_forward", inputs, (width, height, near, far), (splats, bounds, order, counts, image, last))
    return image, last, splats, bounds, order, counts


@_rasterize.register_fake
def _(
    means: Tensor,
    rotations: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    world_to_camera: Tensor,
    intrinsics: Tensor,
    width: int,
    height: int,
    near: float,
    far: float,
) -> tuple[Tensor, ...]:
    return tuple(_outputs(means, world_to_camera, width, height))


@torch.library.custom_op("ead_bench::rasterize_backward", mutates_args=(), device_types="cpu")
def _rasterize_backward(
    gradient: Tensor, inputs: list[Tensor], saved: list[Tensor], width: int, height: int, near: float, far: float
) -> list[Tensor]:
    inputs = [t.contiguous() for t in inputs]
    image, last, splats, bounds, order, counts = saved
    gradients = [torch.empty_like(t) for t in inputs[:5]]
    others = (splats, bounds, order, counts, image, last, gradient.contiguous(), *gradients)
    _call("rasterize_backward", inputs, (width, height, near, far), others)
    return gradients


@_rasterize_backward.register_fake
def _(
    gradient: Tensor, inputs: list[Tensor], saved: list[Tensor], width: int, height: int, near: float, far: float
) -> list[Tensor]:
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in inputs[:5]]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:7], *output)
    ctx.mark_non_differentiable(*output[1:])
    ctx.size = inputs[7:]


def _backward(ctx: Any, gradient: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    gradients = _rasterize_backward(gradient, list(saved[:7]), list(saved[7:]), *ctx.size)
    return (*gradients, *(None,) * 6)


_rasterize.register_autograd(_backward, setup_context=_setup)


def rasterize(inputs: RasterInput) -> Layers:
    """See bench.rendering.interface.Rasterize."""
    tensors = [getattr(inputs, name) for name in INPUTS]
    image, *_ = _rasterize(*tensors, inputs.width, inputs.height, inputs.near, inputs.far)
    return Layers(color=image[:, :, :3], depth=image[:, :, 3], transmittance=image[:, :, 4])
