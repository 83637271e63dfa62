"""Feature planes and cameras → color, depth and alpha by volume rendering, with gradients, in chunks of rays.

Semantics of OpenLRM's renderer (EG3D's, with samples outside of the cube left out): half of a ray's samples spread
evenly between its entry into the cube and its exit, the other half where those found density; between neighboring
samples colors and densities are averaged, then the density is activated by softplus(x − 1). Plain torch, on CPU and
CUDA.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bench.common.errors import UserError
from bench.rendering import Rendering
from models.tensors import Cameras, Triplane

EMPTY = -torch.finfo(torch.float32).max / 8  # density, before its activation, outside of the cube


def render(
    triplane: Triplane,
    cameras: Cameras,
    background: Float[Tensor, "batch view 3"],
    *,
    rays_at_once: int = 2**14,
) -> Rendering:
    """Draw each scene's planes in its cameras, (batch, view), over the background, in float32.

    Gradients reach the planes, the decoder and the background. Samples lie in the middle of their intervals, so that
    equal inputs give equal images. Chunks of `rays_at_once` rays a scene are computed again for their gradients.
    Raises UserError for shapes that do not fit.
    """
    batch, views = cameras.world_to_camera.shape[:2]
    if len(triplane.planes) != batch or tuple(background.shape) != (batch, views, 3):
        raise UserError(
            f"render: planes of {len(triplane.planes)} scenes, cameras {(batch, views)} and background "
            f"{tuple(background.shape)} do not fit: want (batch, …), (batch, view) and (batch, view, 3)"
        )
    with torch.autocast(triplane.planes.device.type, enabled=False):
        centers, directions = cameras.rays()
        origins = rearrange(centers[:, :, None, None].expand_as(directions), "b v h w c -> b (v h w) c").detach()
        directions = rearrange(directions, "b v h w c -> b (v h w) c").detach()
        chunks = [
            _render_rays(triplane, o, d, origins.shape[1] > rays_at_once)
            for o, d in zip(*(torch.split(rays, rays_at_once, dim=1) for rays in (origins, directions)), strict=True)
        ]
        color, distance, alpha = (
            rearrange(torch.cat(values, dim=1), "b (v h w) c -> b v c h w", v=views, h=cameras.height)
            for values in zip(*chunks, strict=True)
        )
        forward = cameras.world_to_camera[:, :, 2, :3]  # the camera's axis in the scene's frame
        cosine = torch.einsum("bvc,bvnc->bvn", forward, rearrange(directions, "b (v n) c -> b v n c", v=views))
        return Rendering(
            rgb=color + (1 - alpha) * background.float()[..., None, None],
            depth=distance[:, :, 0] * rearrange(cosine, "b v (h w) -> b v h w", h=cameras.height),
            alpha=alpha[:, :, 0],
        )


def _render_rays(
    triplane: Triplane, origins: Tensor, directions: Tensor, recompute: bool
) -> tuple[Tensor, Tensor, Tensor]:
    if recompute and torch.is_grad_enabled():
        result: tuple[Tensor, Tensor, Tensor] = checkpoint(
            render_rays, triplane, origins, directions, use_reentrant=False
        )
        return result
    return render_rays(triplane, origins, directions)


def render_rays(
    triplane: Triplane,
    origins: Float[Tensor, "batch ray 3"],
    directions: Float[Tensor, "batch ray 3"],
    noise: tuple[Float[Tensor, "batch ray half"], Float[Tensor, "batch ray half"]] | None = None,
) -> tuple[Float[Tensor, "batch ray 3"], Float[Tensor, "batch ray 1"], Float[Tensor, "batch ray 1"]]:
    """Color before any background, expected distance (0 where alpha is 0) and alpha of each ray.

    `noise` in [0, 1): where a sample lies in its interval, and which quantiles of the first samples' weights get a
    second; None for the middles.
    """
    half = triplane.samples // 2
    near, far = cube_limits(origins, directions, triplane.extent)
    middle = torch.full((*near.shape[:2], half), 0.5, device=near.device)
    jitter, quantiles = noise or (middle, (torch.arange(half, device=near.device) + middle) / half)
    steps = torch.arange(half, device=near.device) / (half - 1)
    coarse = near + steps * (far - near) + jitter * (far - near) / (half - 1)
    colors, densities = sample(triplane, origins, directions, coarse)
    with torch.no_grad():
        fine = resample(coarse, weights_of(densities, coarse), quantiles)
    more_colors, more_densities = sample(triplane, origins, directions, fine)
    distances, order = torch.cat([coarse, fine], dim=-1).sort(dim=-1)
    densities = torch.cat([densities, more_densities], dim=-1).gather(-1, order)
    colors = torch.cat([colors, more_colors], dim=-2).gather(-2, order[..., None].expand(-1, -1, -1, 3))
    weights = weights_of(densities, distances)
    alpha = weights.sum(-1, keepdim=True)
    color = (weights[..., None] * (colors[..., 1:, :] + colors[..., :-1, :]) / 2).sum(-2)
    distance = (weights * (distances[..., 1:] + distances[..., :-1]) / 2).sum(-1, keepdim=True)
    return color, distance / alpha.clamp_min(1e-10), alpha


def cube_limits(
    origins: Float[Tensor, "batch ray 3"], directions: Float[Tensor, "batch ray 3"], extent: float
) -> tuple[Float[Tensor, "batch ray 1"], Float[Tensor, "batch ray 1"]]:
    """Distances at which rays enter and leave the cube [−extent, extent]³; for rays that miss it both are those at
    which they pass closest to its center, so that all their samples lie outside."""
    inverse = 1 / torch.where(directions == 0, 1e-12, directions)
    sides = torch.stack([(-extent - origins) * inverse, (extent - origins) * inverse])
    near = sides.amin(0).amax(-1, keepdim=True)
    far = sides.amax(0).amin(-1, keepdim=True)
    closest = -(origins * directions).sum(-1, keepdim=True)
    hit = far > near
    return torch.where(hit, near, closest), torch.where(hit, far, closest)


def sample(
    triplane: Triplane,
    origins: Float[Tensor, "batch ray 3"],
    directions: Float[Tensor, "batch ray 3"],
    distances: Float[Tensor, "batch ray sample"],
) -> tuple[Float[Tensor, "batch ray sample 3"], Float[Tensor, "batch ray sample"]]:
    """Colors, and densities before their activation; nothing outside of the cube."""
    points = origins[:, :, None] + distances[..., None] * directions[:, :, None]
    features = plane_features(triplane, points.flatten(1, 2)).transpose(2, 3).flatten(1, 2).transpose(1, 2)
    rgb, density = triplane.decoder(features)  # a view of the samples: a copy would cost as much as the decoder
    inside = (points.abs() <= triplane.extent).all(-1)
    rgb, density = rgb.unflatten(1, inside.shape[1:]), density[..., 0].unflatten(1, inside.shape[1:])
    return torch.where(inside[..., None], rgb, 0.0), torch.where(inside, density, EMPTY)


def plane_features(triplane: Triplane, points: Float[Tensor, "batch n 3"]) -> Float[Tensor, "batch 3 n channel"]:
    """Bilinear features of the planes xy, xz and zy at points of the scene; the first coordinate runs along columns."""
    x, y, z = (points / triplane.extent).unbind(-1)
    where = torch.stack([torch.stack(pair, dim=-1) for pair in ((x, y), (x, z), (z, y))], dim=1)
    sampled = F.grid_sample(
        triplane.planes.float().flatten(0, 1), where.flatten(0, 1)[:, None], padding_mode="zeros", align_corners=False
    )
    return rearrange(sampled, "(b p) k 1 n -> b p n k", p=3)


def weights_of(
    densities: Float[Tensor, "batch ray sample"], distances: Float[Tensor, "batch ray sample"]
) -> Float[Tensor, "batch ray interval"]:
    """What each interval between two samples contributes to its ray."""
    density = F.softplus((densities[..., 1:] + densities[..., :-1]) / 2 - 1)
    alpha = 1 - torch.exp(-density * (distances[..., 1:] - distances[..., :-1]))
    passed = torch.cumprod(1 - alpha + 1e-10, dim=-1)
    return alpha * torch.cat([torch.ones_like(passed[..., :1]), passed[..., :-1]], dim=-1)


def resample(
    distances: Float[Tensor, "batch ray sample"],
    weights: Float[Tensor, "batch ray interval"],
    quantiles: Float[Tensor, "batch ray more"],
) -> Float[Tensor, "batch ray more"]:
    """Distances at these quantiles of the smoothed weights, between the middles of the intervals (NeRF)."""
    smooth = F.max_pool1d(weights, 2, 1, padding=1)
    smooth = F.avg_pool1d(smooth, 2, 1)[..., 1:-1] + 0.01 + 1e-5
    edges = (distances[..., 1:] + distances[..., :-1]) / 2
    cumulative = torch.cumsum(smooth / smooth.sum(-1, keepdim=True), dim=-1)
    cumulative = torch.cat([torch.zeros_like(cumulative[..., :1]), cumulative], dim=-1)
    above = torch.searchsorted(cumulative, quantiles.contiguous(), right=True)
    below, above = (above - 1).clamp_min(0), above.clamp_max(smooth.shape[-1])
    low, high = cumulative.gather(-1, below), cumulative.gather(-1, above)
    span = torch.where(high - low < 1e-5, 1.0, high - low)
    start, end = edges.gather(-1, below), edges.gather(-1, above)
    return start + (quantiles - low) / span * (end - start)
