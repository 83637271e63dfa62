"""A radiance field on three planes + cameras → color, depth and alpha, with gradients, on any device.

The quadrature of NeRF (Mildenhall et al. 2020, eq. 3) between samples, with the mean of neighboring colors and
densities, from two passes: half of a ray's samples evenly spaced in the field's box, half where the first pass found
something. Planes, decoder and activation are LRM's (Hong et al. 2024, §3.2). Nothing is random: samples lie in the
middle of their intervals unless noise is given. Rays are computed in chunks, whose samples are recomputed backward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bench.rendering import Rendering
from models.tensors import Cameras, Triplane

SAMPLES = 64  # a ray, over both passes
CHUNK = 2**19  # samples computed at once
EMPTY = -1.0e4  # density before its activation, outside the field's box
SMOOTHING = 0.01  # added to the first pass's weights, so that no part of a ray is left without samples
PLANE_AXES = ((0, 1), (0, 2), (2, 1))  # (column, row) of the planes xy, xz and zy

Noise = Float[Tensor, "ray sample"]  # in [0, 1)


@dataclass(frozen=True)
class Rays:
    """`cosine`: between a ray and its camera's optical axis; distance along the ray times it is depth."""

    origins: Float[Tensor, "ray 3"]
    directions: Float[Tensor, "ray 3"]  # unit
    cosine: Float[Tensor, " ray"]


def render_planes(
    field: Triplane, cameras: Cameras, background: Float[Tensor, "batch view 3"], samples: int = SAMPLES
) -> Rendering:
    """Draw each scene's field in its cameras, (batch, view), over the background, in float32."""
    batch, views = cameras.world_to_camera.shape[:2]
    with torch.autocast(field.planes.device.type, enabled=False):
        scenes = []
        for i in range(batch):
            rays = rays_of(Cameras(cameras.world_to_camera[i], cameras.intrinsics[i], cameras.height, cameras.width))
            size = max(1, CHUNK // samples)
            parts = [
                checkpoint(
                    march, field.planes[i].float(), field.decoder, field.extent,
                    Rays(rays.origins[j : j + size], rays.directions[j : j + size], rays.cosine[j : j + size]), samples,
                    use_reentrant=False,
                )
                for j in range(0, len(rays.origins), size)
            ]  # fmt: skip
            scenes.append(torch.cat(parts))
        sums = torch.stack(scenes)
        color, depth, alpha = sums[..., :3], sums[..., 3], sums[..., 4]
        shape = (batch, views, cameras.height, cameras.width)
        alpha = alpha.reshape(shape)
        rgb = color.reshape(*shape, 3).movedim(-1, 2) + (1 - alpha[:, :, None]) * background.float()[..., None, None]
        return Rendering(rgb=rgb, depth=depth.reshape(shape) / alpha.clamp_min(1e-10), alpha=alpha)


def rays_of(cameras: Cameras) -> Rays:
    """Through every pixel's center, view by view, row by row; `cameras` are of shape (view,)."""
    device = cameras.world_to_camera.device
    rows, columns = (torch.arange(count, device=device) + 0.5 for count in (cameras.height, cameras.width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1).reshape(-1, 3)
    local = F.normalize(pixels @ torch.linalg.inv(cameras.intrinsics.float()).transpose(-1, -2), dim=-1)
    directions = local @ cameras.world_to_camera[:, :3, :3].float()
    origins = cameras.centers.float()[:, None].expand_as(directions)
    return Rays(origins.flatten(0, 1).detach(), directions.flatten(0, 1).detach(), local[..., 2].flatten().detach())


def march(
    planes: Float[Tensor, "3 channel rows cols"],
    decoder: Callable[[Tensor], tuple[Tensor, Tensor]],
    extent: float,
    rays: Rays,
    samples: int,
    noise: tuple[Noise, Noise] | None = None,
) -> Float[Tensor, "ray 5"]:
    """Σ weight · (color, depth), and Σ weight, of some rays; `noise` places the samples of the two passes."""
    near, far, hits = box_limits(rays, extent)
    first = samples // 2
    jitter = rays.cosine.new_full((len(near), first), 0.5) if noise is None else noise[0]
    spread = torch.linspace(0, 1, first, device=near.device)
    distances = near[:, None] + (far - near)[:, None] * (spread + jitter / (first - 1))
    coarse = radiance(planes, decoder, extent, rays, distances)
    with torch.no_grad():
        weights = quadrature(coarse, distances)[0]
        extra = distances_by_weight(distances, weights, samples - first, noise[1] if noise else None)
    fine = radiance(planes, decoder, extent, rays, extra)
    distances, order = torch.cat([distances, extra], dim=1).sort(dim=1)
    values = torch.cat([coarse, fine], dim=1).gather(1, order[..., None].expand(-1, -1, 4))
    weights, colors, middles = quadrature(values, distances)
    weights = weights * hits[:, None]
    color = (weights[..., None] * colors).sum(1)
    depth = (weights * middles).sum(1) * rays.cosine
    return torch.cat([color, depth[:, None], weights.sum(1, keepdim=True)], dim=1)


def box_limits(rays: Rays, extent: float) -> tuple[Float[Tensor, " ray"], Float[Tensor, " ray"], Bool[Tensor, " ray"]]:
    """Distances at which rays enter and leave [−extent, extent]³, from 0 on, and whether they meet it at all."""
    inverse = 1 / torch.where(rays.directions.abs() < 1e-9, 1e-9, rays.directions)
    one, other = ((side * extent - rays.origins) * inverse for side in (-1, 1))
    near = torch.minimum(one, other).amax(-1).clamp_min(0)
    far = torch.maximum(one, other).amin(-1)
    hits = far > near
    return torch.where(hits, near, 0), torch.where(hits, far, 1), hits


def radiance(
    planes: Float[Tensor, "3 channel rows cols"],
    decoder: Callable[[Tensor], tuple[Tensor, Tensor]],
    extent: float,
    rays: Rays,
    distances: Float[Tensor, "ray sample"],
) -> Float[Tensor, "ray sample 4"]:
    """Color and density before its activation, EMPTY outside the box."""
    points = rays.origins[:, None] + distances[..., None] * rays.directions[:, None]
    color, density = decoder(plane_features(planes, points.flatten(0, 1) / extent))
    values = torch.cat([color, density], dim=-1).reshape(*distances.shape, 4)
    inside = (points.abs() <= extent).all(-1, keepdim=True)
    return torch.where(inside, values, values.new_tensor([0, 0, 0, EMPTY]))


def plane_features(
    planes: Float[Tensor, "3 channel rows cols"], points: Float[Tensor, "point 3"]
) -> Float[Tensor, "point channels"]:
    """Bilinear samples of the three planes at points in [−1, 1]³, concatenated; zero beyond their borders."""
    grid = torch.stack([points[:, axes] for axes in PLANE_AXES])[:, None]
    features = F.grid_sample(planes, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return features[:, :, 0].permute(2, 0, 1).flatten(1)


def quadrature(
    values: Float[Tensor, "ray sample 4"], distances: Float[Tensor, "ray sample"]
) -> tuple[Float[Tensor, "ray interval"], Float[Tensor, "ray interval 3"], Float[Tensor, "ray interval"]]:
    """Weight, color and middle of the intervals between samples."""
    means = (values[:, 1:] + values[:, :-1]) / 2
    thickness = F.softplus(means[..., 3] - 1) * distances.diff(dim=1)  # the activation's bias of −1 is EG3D's
    alpha = 1 - torch.exp(-thickness)
    before = torch.cat([torch.ones_like(alpha[:, :1]), (1 - alpha + 1e-10).cumprod(1)[:, :-1]], dim=1)
    return alpha * before, means[..., :3], (distances[:, 1:] + distances[:, :-1]) / 2


def distances_by_weight(
    distances: Float[Tensor, "ray sample"], weights: Float[Tensor, "ray interval"], count: int, noise: Noise | None
) -> Float[Tensor, "ray count"]:
    """`count` distances a ray, by the inverse of the cumulative distribution of the smoothed weights."""
    padded = F.pad(weights, (1, 1), value=0.0)
    neighbors = torch.maximum(padded[:, 1:], padded[:, :-1])
    smooth = (neighbors[:, 1:] + neighbors[:, :-1]) / 2 + SMOOTHING
    middles = (distances[:, 1:] + distances[:, :-1]) / 2
    density = smooth[:, 1:-1] + 1e-5
    cumulative = F.pad((density / density.sum(1, keepdim=True)).cumsum(1), (1, 0))
    if noise is None:
        even = (torch.arange(count, device=distances.device) + 0.5) / count
        noise = even.expand(len(distances), count)
    above = torch.searchsorted(cumulative, noise.contiguous(), right=True).clamp(1, cumulative.shape[1] - 1)
    low, high = cumulative.gather(1, above - 1), cumulative.gather(1, above)
    share = (noise - low) / torch.where(high - low < 1e-5, 1, high - low)
    start, end = middles.gather(1, above - 1), middles.gather(1, above)
    return start + share * (end - start)
