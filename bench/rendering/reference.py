"""The plain-torch back end: every tile of every image at once, by padded lists of Gaussians; any dtype and device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bench.rendering.interface import Layers, RasterInput

BLUR, ALPHA_MIN, ALPHA_MAX, STOP, EXTENT = 0.3, 1 / 255, 0.999, 1e-4, 3.33
TILE = 4  # pixels
CHUNK = 2**21  # Gaussian-pixel pairs evaluated at once


@dataclass(frozen=True)
class Projected:
    """Gaussians in image planes, for all (batch, view) images."""

    centers: Float[Tensor, "image gaussian 2"]
    conics: Float[Tensor, "image gaussian 3"]  # of the inverse covariance: xx, xy, yy
    depths: Float[Tensor, "image gaussian"]
    radii: Int[Tensor, "image gaussian 2"]  # pixels; 0: not drawn


def covariances(rotations: Float[Tensor, "*shape 4"], scales: Float[Tensor, "*shape 3"]) -> Float[Tensor, "*shape 3 3"]:
    """R diag(s)² Rᵀ of (w, x, y, z) quaternions of any length."""
    w, x, y, z = torch.nn.functional.normalize(rotations, dim=-1).unbind(-1)
    rows = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    factor = torch.stack(rows, dim=-1).reshape(*rotations.shape[:-1], 3, 3) * scales[..., None, :]
    return torch.matmul(factor, factor.transpose(-1, -2))


def project(inputs: RasterInput, covariance: Float[Tensor, "batch gaussian 3 3"]) -> Projected:
    """The local affine approximation of perspective projection (EWA), with gsplat's culling."""
    means, opacities, cameras, intrinsics = inputs.means, inputs.opacities, inputs.world_to_camera, inputs.intrinsics
    rotation = cameras[:, :, None, :3, :3]
    points = torch.einsum("bvij,bgj->bvgi", cameras[..., :3, :3], means) + cameras[:, :, None, :3, 3]
    depths = points[..., 2]
    in_range = (depths >= inputs.near) & (depths <= inputs.far) & (opacities[:, None] >= ALPHA_MIN)
    z = torch.where(in_range, depths, 1)
    size = torch.tensor([inputs.width, inputs.height], dtype=means.dtype, device=means.device)
    focal = intrinsics[:, :, None, (0, 1), (0, 1)]
    middle = intrinsics[:, :, None, :2, 2]
    slope = points[..., :2] / z[..., None]
    centers = focal * slope + middle
    limits = -(middle + 0.15 * size) / focal, (size - middle + 0.15 * size) / focal
    clamped = torch.minimum(torch.maximum(slope, limits[0]), limits[1])
    factor = (focal / z[..., None])[..., None] * (rotation[..., :2, :] - clamped[..., None] * rotation[..., 2:, :])
    planar = factor @ covariance[:, None] @ factor.transpose(-1, -2)
    xx, xy, yy = planar[..., 0, 0] + BLUR, planar[..., 0, 1], planar[..., 1, 1] + BLUR
    determinant = xx * yy - xy * xy
    in_range = in_range & (determinant > 0) & determinant.isfinite()
    conics = torch.stack([yy, -xy, xx], dim=-1) / torch.where(in_range, determinant, 1)[..., None]
    with torch.no_grad():
        extent = (2 * (opacities / ALPHA_MIN).clamp_min(1).log()).sqrt().clamp_max(EXTENT)[:, None, :, None]
        radii = (extent * torch.stack([xx, yy], dim=-1).clamp_min(0).sqrt()).ceil()
        inside = ((centers + radii > 0) & (centers - radii < size)).all(-1) & in_range
        radii = torch.where(inside[..., None], radii.clamp_max(2**20), 0).int()
    return Projected(centers.flatten(0, 1), conics.flatten(0, 1), depths.flatten(0, 1), radii.flatten(0, 1))


@torch.no_grad()
def tile_lists(projected: Projected, across: int, down: int) -> tuple[Int[Tensor, " pair"], Int[Tensor, " tile"]]:
    """Which Gaussians (flat over images) each tile (flat over images) draws, front to back; how many each draws."""
    count = projected.depths.shape[1]
    drawn = (projected.radii > 0).all(-1).flatten().nonzero()[:, 0]
    drawn = drawn[projected.depths.flatten()[drawn].argsort(stable=True)]
    centers, radii = projected.centers.flatten(0, 1)[drawn], projected.radii.flatten(0, 1)[drawn]
    limit = torch.tensor([across, down], device=drawn.device)
    first = ((centers - radii) / TILE).floor().clamp_min(0).long()
    end = torch.minimum(((centers + radii) / TILE).ceil().long(), limit)
    extent = (end - first).clamp_min(0)
    pairs = extent.prod(-1)
    source = torch.repeat_interleave(pairs)
    place = torch.arange(len(source), device=source.device) - (pairs.cumsum(0) - pairs)[source]
    column = first[source, 0] + place % extent[source, 0]
    row = first[source, 1] + place // extent[source, 0]
    tile = (drawn[source] // count * down + row) * across + column
    images = projected.depths.shape[0]
    return drawn[source[tile.argsort(stable=True)]], torch.bincount(tile, minlength=images * down * across)


def _blend(values: Tensor, index: Tensor, lengths: Tensor, corners: Tensor) -> Tensor:
    """Σ weight · (color, depth), and transmittance, of some tiles: (tile, pixel, 5).

    `values` (gaussian, 10): center, conic, opacity, color, depth. `index` (tile, place) → row of `values`.
    """
    offsets = torch.arange(TILE, device=index.device, dtype=values.dtype) + 0.5
    pixels = corners[:, None] + torch.cartesian_prod(offsets, offsets).flip(-1)
    center, conic, opacity, color_depth = torch.split(values[index], [2, 3, 1, 4], dim=-1)
    dx, dy = (center[:, :, None] - pixels[:, None]).unbind(-1)
    xx, xy, yy = conic[:, :, None].unbind(-1)
    sigma = 0.5 * (xx * dx * dx + yy * dy * dy) + xy * dx * dy
    alpha = (opacity * torch.exp(-sigma)).clamp_max(ALPHA_MAX)
    listed = torch.arange(index.shape[1], device=index.device) < lengths[:, None]
    alpha = torch.where((sigma >= 0) & (alpha >= ALPHA_MIN) & listed[:, :, None], alpha, 0)
    after = torch.cumprod(1 - alpha.detach(), dim=1)
    alpha = torch.where(after > STOP, alpha, 0)
    after = torch.cumprod(1 - alpha, dim=1)
    before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], dim=1)
    sums = torch.einsum("tgp,tgc->tpc", alpha * before, color_depth)
    return torch.cat([sums, after[:, -1, :, None]], dim=-1)


def _chunks(lengths: Tensor) -> list[tuple[int, int]]:
    """Runs of tiles, sorted by falling length, whose padded lists stay within CHUNK."""
    runs, start, sizes = [], 0, lengths.tolist()
    while start < len(sizes):
        end = start + max(1, CHUNK // (max(sizes[start], 1) * TILE * TILE))
        runs.append((start, min(end, len(sizes))))
        start = end
    return runs


def rasterize(inputs: RasterInput) -> Layers:
    """See bench.rendering.interface.Rasterize."""
    batch, view = inputs.world_to_camera.shape[:2]
    width, height = inputs.width, inputs.height
    projected = project(inputs, covariances(inputs.rotations, inputs.scales))
    across, down = -(-width // TILE), -(-height // TILE)
    pairs, lengths = tile_lists(projected, across, down)
    values = torch.cat(
        [
            projected.centers,
            projected.conics,
            inputs.opacities[:, None].expand(-1, view, -1).flatten(0, 1)[..., None],
            inputs.colors.expand(-1, view, -1, -1).flatten(0, 1),
            projected.depths[..., None],
        ],
        dim=-1,
    ).flatten(0, 1)
    starts = lengths.cumsum(0) - lengths
    tiles = lengths.argsort(descending=True, stable=True)
    tiles = tiles[: int((lengths > 0).sum())]
    background = values.new_tensor([0, 0, 0, 0, 1]).expand(len(lengths), TILE * TILE, 5)
    chunks = []
    for first, end in _chunks(lengths[tiles]):
        chosen = tiles[first:end]
        places = torch.arange(int(lengths[chosen[0]]), device=values.device)
        index = pairs[(starts[chosen, None] + places).clamp_max(len(pairs) - 1)]
        corners = torch.stack([chosen % across, chosen // across % down], dim=-1) * TILE
        chunks.append(checkpoint(_blend, values, index, lengths[chosen], corners, use_reentrant=False))
    image = background.index_put((tiles,), torch.cat(chunks)) if chunks else background + 0 * values.sum()
    image = image.reshape(batch, view, down, across, TILE, TILE, 5).permute(0, 1, 6, 2, 4, 3, 5)
    image = image.reshape(batch, view, 5, down * TILE, across * TILE)[..., :height, :width]
    return Layers(color=image[:, :, :3], depth=image[:, :, 3], transmittance=image[:, :, 4])
