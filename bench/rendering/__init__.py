"""Gaussians and cameras → color, depth and alpha, with gradients; scenes × views at once.

Three back ends of one meaning: gsplat on CUDA, a compiled kernel on CPUs, and a plain-torch reference. Semantics:
bench.rendering.interface.Rasterize.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from bench.common.compat import shapes_only
from bench.common.errors import UserError
from bench.rendering import (
    compiled,
    gsplat_backend,
    gsplat_shapes,
    kernel,
    reference,
    spherical_harmonics,
)
from bench.rendering.interface import RasterInput, Rasterize
from models.tensors import Cameras, Gaussians

Backend = Literal["auto", "gsplat", "compiled", "reference", "gsplat_shapes"]
_automatic: ContextVar[Backend | None] = ContextVar("automatic_backend", default=None)


@dataclass(frozen=True)
class Rendering:
    """Images of the target cameras."""

    rgb: Float[Tensor, "batch view 3 height width"]
    depth: Float[Tensor, "batch view height width"]  # expected: Σ w z / Σ w; 0 where alpha is 0
    alpha: Float[Tensor, "batch view height width"]


def render(
    gaussians: Gaussians,
    cameras: Cameras,
    background: Float[Tensor, "batch view 3"],
    *,
    backend: Backend = "auto",
    near: float = 0.01,
    far: float = 100.0,
) -> Rendering:
    """Draw each scene's Gaussians, (batch, …), in its cameras, (batch, view), over the background, in float32.

    Gradients reach the Gaussians and the background, not the cameras. A Gaussian with a value that is not finite is
    not drawn and gets no gradient. "auto" is gsplat on CUDA, else the compiled kernel, else, with a warning, the
    reference. Raises UserError for shapes, planes or devices that do not fit.
    """
    _check(gaussians, cameras, background, near, far)
    rasterize = _backend(backend, gaussians.means.device)
    with torch.autocast(gaussians.means.device.type, enabled=False):
        finite = _finite(gaussians.flat())
        world_to_camera = cameras.world_to_camera.detach().float().contiguous()
        centers = Cameras(world_to_camera, cameras.intrinsics, cameras.height, cameras.width).centers
        layers = rasterize(
            RasterInput(
                means=finite.means,
                rotations=finite.rotations,
                scales=finite.scales,
                opacities=finite.opacities,
                colors=spherical_harmonics.colors(finite.harmonics, finite.means, centers),
                world_to_camera=world_to_camera,
                intrinsics=cameras.intrinsics.detach().float().contiguous(),
                width=cameras.width,
                height=cameras.height,
                near=near,
                far=far,
            )
        )
        alpha = 1 - layers.transmittance
        return Rendering(
            rgb=layers.color + layers.transmittance[:, :, None] * background.float()[..., None, None],
            depth=layers.depth / alpha.clamp_min(1e-10),
            alpha=alpha,
        )


@contextmanager
def automatic_backend(backend: Backend) -> Iterator[None]:
    """What "auto" stands for within: an estimate traces the buffers of a GPU's rasterizer on a CPU."""
    token = _automatic.set(backend)
    try:
        yield
    finally:
        _automatic.reset(token)


def _finite(gaussians: Gaussians) -> Gaussians:
    """In float32, with those that are not finite replaced by transparent ones."""
    fields = [gaussians.means, gaussians.rotations, gaussians.scales, gaussians.opacities, gaussians.harmonics]
    fields = [field.float() for field in fields]
    if shapes_only() or all(bool(field.detach().sum().isfinite()) for field in fields):
        return Gaussians(*fields)
    flags = [field.isfinite().reshape(*field.shape[:2], -1).all(-1) for field in fields]
    keep = torch.stack(flags).all(0)
    return Gaussians(*(torch.where(keep.reshape(*keep.shape, *[1] * (f.ndim - 2)), f, 0) for f in fields))


def _check(gaussians: Gaussians, cameras: Cameras, background: Tensor, near: float, far: float) -> None:
    if cameras.world_to_camera.ndim != 4 or cameras.intrinsics.shape[:-2] != cameras.world_to_camera.shape[:-2]:
        raise UserError("render: cameras need the shape (batch, view), extrinsics and intrinsics alike")
    images = tuple(cameras.world_to_camera.shape[:2])
    if images[0] != gaussians.means.shape[0] or tuple(background.shape) != (*images, 3):
        raise UserError(
            f"render: {gaussians.means.shape[0]} scenes of Gaussians, cameras {images} and background "
            f"{tuple(background.shape)} do not fit: want (batch, …), (batch, view) and (batch, view, 3)"
        )
    if not 0 < near < far:
        raise UserError(f"render: near {near} and far {far} need 0 < near < far")
    if not (0 < cameras.width < 2**15 and 0 < cameras.height < 2**15):
        raise UserError(f"render: image size {cameras.width} × {cameras.height} is not within 1 … 32767")


def _backend(name: Backend, device: torch.device) -> Rasterize:
    if name == "auto":
        name = _automatic.get() or _fastest(device)
    if name == "gsplat_shapes":
        return gsplat_shapes.rasterize
    if (name == "gsplat") != (device.type == "cuda") and name != "reference":
        raise UserError(f"render: back end {name} does not draw tensors on {device.type}; use backend='auto'")
    if name == "compiled":
        kernel.library()
    return {"gsplat": gsplat_backend.rasterize, "compiled": compiled.rasterize, "reference": reference.rasterize}[name]


def _fastest(device: torch.device) -> Backend:
    if device.type == "cuda":
        return "gsplat"
    return "compiled" if kernel.available() else "reference"
