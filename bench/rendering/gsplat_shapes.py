"""The buffers of gsplat 1.5 without their values, for estimates: same shapes, types and lifetimes, nothing is drawn.

Source: gsplat 1.5.3, rendering.py (`rasterization`, not packed) and cuda/_wrapper.py (`_FullyFusedProjection`,
`isect_tiles`, `_RasterizeToPixels`). How many tiles the Gaussians cover depends on their values: here one a Gaussian
and view, within the range INTERSECTIONS, by which an estimate scales these buffers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from bench.rendering.interface import Layers, RasterInput

TILE = 16  # pixels
INTERSECTIONS = "intersections"


class _Projection(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, means: Tensor, rotations: Tensor, scales: Tensor, cameras: Tensor, intrinsics: Tensor
    ) -> tuple[Tensor, ...]:
        shape = (*cameras.shape[:2], means.shape[1])
        radii = means.new_empty(*shape, 2, dtype=torch.int32)
        conics = means.new_empty(*shape, 3)
        ctx.save_for_backward(means, rotations, scales, cameras, intrinsics, radii, conics)
        ctx.mark_non_differentiable(radii)
        return radii, means.new_empty(*shape, 2), means.new_empty(shape), conics

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        means, rotations, scales, *_ = ctx.saved_tensors
        return torch.empty_like(means), torch.empty_like(rotations), torch.empty_like(scales), None, None


class _Pixels(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, means: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, width: int, height: int,
        offsets: Tensor, ids: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        images = (*means.shape[:2], height, width)
        rendered, alphas = means.new_empty(*images, colors.shape[-1]), means.new_empty(*images, 1)
        last = means.new_empty(images, dtype=torch.int32)
        ctx.save_for_backward(means, conics, colors, opacities, offsets, ids, alphas, last)
        return rendered, alphas

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        for gradient in gradients:
            gradient.contiguous()
        return (*(torch.zeros_like(tensor) for tensor in ctx.saved_tensors[:4]), None, None, None, None)


def rasterize(inputs: RasterInput) -> Layers:
    """See bench.rendering.interface.Rasterize; the layers have no values."""
    views = inputs.world_to_camera.shape[1]
    _radii, means, depths, conics = _Projection.apply(
        inputs.means, inputs.rotations, inputs.scales, inputs.world_to_camera, inputs.intrinsics
    )  # type: ignore[no-untyped-call]
    colors = torch.cat((inputs.colors.expand(-1, views, -1, -1), depths[..., None]), dim=-1)
    opacities = inputs.opacities[:, None].expand(-1, views, -1).contiguous()
    offsets, _keys, ids = _intersect(means, inputs.width, inputs.height)
    images, alphas = _Pixels.apply(means, conics, colors, opacities, inputs.width, inputs.height, offsets, ids)  # type: ignore[no-untyped-call]
    return Layers(color=images[..., :3].movedim(-1, 2), depth=images[..., 3], transmittance=1 - alphas[..., 0])


def _intersect(means: Tensor, width: int, height: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where each tile's Gaussians begin, sort keys and Gaussians by tile; keys and values are sorted out of place."""
    count = means.shape[:-1]
    means.new_empty(count, dtype=torch.int32).cumsum(-1)  # tiles of each Gaussian
    with record_function(INTERSECTIONS):
        keys, ids = (means.new_empty(count.numel(), dtype=dtype) for dtype in (torch.int64, torch.int32))
        keys, ids = torch.empty_like(keys), torch.empty_like(ids)
    tiles = (-(-height // TILE), -(-width // TILE))
    return means.new_empty(*count[:-1], *tiles, dtype=torch.int32), keys, ids
