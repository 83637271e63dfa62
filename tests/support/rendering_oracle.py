"""Scenes and cameras for the rendering tests, and the rasterizer that they are held against."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci, _spherical_harmonics
from torch import Tensor

from bench.rendering import Rendering, spherical_harmonics
from models.tensors import Cameras, Gaussians

FIELDS = ("means", "rotations", "scales", "opacities", "harmonics")


def scene(batch: int = 1, count: int = 40, degree: int = 1, seed: int = 0) -> Gaussians:
    """Overlapping Gaussians around the origin."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, count, *shape, generator=draw)

    return Gaussians(
        means=0.3 * normal(3),
        rotations=normal(4),
        scales=0.02 + 0.1 * torch.rand(batch, count, 3, generator=draw),
        opacities=0.1 + 0.85 * torch.rand(batch, count, generator=draw),
        harmonics=0.5 * normal((degree + 1) ** 2, 3),
    )


def cameras(batch: int = 1, view: int = 1, width: int = 20, height: int = 13) -> Cameras:
    """Around the origin, not aligned with any axis, with an off-center principal point."""
    angles = torch.arange(batch * view).reshape(batch, view) * 0.9 + 0.4
    c, s = angles.cos(), angles.sin()
    turn = torch.eye(4).repeat(batch, view, 1, 1)
    turn[..., 0, 0], turn[..., 0, 2], turn[..., 2, 0], turn[..., 2, 2] = c, s, -s, c
    tilt = torch.eye(4)
    tilt[1:3, 1:3] = torch.tensor([[0.8, -0.6], [0.6, 0.8]])
    tilt[2, 3] = 2.0
    intrinsics = torch.tensor([[18.0, 0, width / 2 + 0.7], [0, 17.0, height / 2 - 0.4], [0, 0, 1]])
    return Cameras(tilt @ turn, intrinsics.expand(batch, view, 3, 3), height, width)


def oracle(gaussians: Gaussians, cams: Cameras, background: Tensor, near: float, far: float) -> Rendering:
    """Every Gaussian at every pixel in float64; projection and harmonics by gsplat."""
    g, view = gaussians, cams.world_to_camera.double()
    degree = spherical_harmonics.degree_of(g.harmonics.shape[-2])
    covariance, _ = _quat_scale_to_covar_preci(g.rotations, g.scales, compute_preci=False)
    size = (cams.width, cams.height)
    radii, centers, depths, conics, _ = _fully_fused_projection(
        g.means, covariance, view, cams.intrinsics.double(), *size, near_plane=near, far_plane=far
    )
    rotation, shift = view[..., :3, :3], view[..., :3, 3]
    eyes = -torch.einsum("bvji,bvj->bvi", rotation, shift)
    directions = g.means[:, None] - eyes[:, :, None]
    coefficients = g.harmonics[:, None].expand(-1, view.shape[1], -1, -1, -1)
    colors = (_spherical_harmonics(degree, directions, coefficients) + 0.5).clamp_min(0)
    x, y = torch.meshgrid(torch.arange(cams.width) + 0.5, torch.arange(cams.height) + 0.5, indexing="xy")
    rgb, depth, alpha = [], [], []
    for b, v in np.ndindex(*view.shape[:2]):
        transmittance = torch.ones(cams.height, cams.width, dtype=torch.float64)
        open_, sums = (
            torch.ones_like(transmittance, dtype=torch.bool),
            torch.zeros(4, *transmittance.shape, dtype=torch.float64),
        )
        for i in depths[b, v].argsort(stable=True).tolist():
            if (radii[b, v, i] == 0).any():
                continue
            dx, dy = centers[b, v, i, 0] - x, centers[b, v, i, 1] - y
            p, q, r = conics[b, v, i]
            strength = g.opacities[b, i] * torch.exp(-0.5 * (p * dx * dx + r * dy * dy) - q * dx * dy)
            opacity = strength.clamp_max(0.999)
            hit = open_ & (opacity >= 1 / 255)
            open_ = open_ & ~(hit & (transmittance * (1 - opacity) <= 1e-4))
            weight = torch.where(hit & open_, opacity * transmittance, 0)
            features = torch.cat([colors[b, v, i], depths[b, v, i][None]])
            sums, transmittance = sums + weight * features[:, None, None], transmittance - weight
        rgb.append(sums[:3] + transmittance * background[b, v, :, None, None])
        alpha.append(1 - transmittance)
        depth.append(sums[3] / (1 - transmittance).clamp_min(1e-10))
    shape = view.shape[:2]
    return Rendering(*(torch.stack(image).reshape(*shape, *image[0].shape) for image in (rgb, depth, alpha)))


def change(gaussians: Gaussians, rows: slice, **values: float | list[float]) -> Gaussians:
    fields = {}
    for name, value in values.items():
        fields[name] = getattr(gaussians, name).clone()
        fields[name][:, rows] = torch.as_tensor(value)
    return dataclasses.replace(gaussians, **fields)


def beside(gaussians: Gaussians) -> Gaussians:
    """Some far outside the image, where the Jacobian is clamped, large enough to reach into it."""
    moved = change(gaussians, slice(0, 6), scales=0.8, opacities=0.9)
    return dataclasses.replace(moved, means=moved.means * torch.linspace(14, 1, 40)[:, None])


CASES: dict[str, tuple[Callable[[], Gaussians], Callable[[], Cameras]]] = {
    "overlapping": (scene, cameras),
    "opaque core": (lambda: change(scene(seed=1), slice(0, 20), opacities=1.0, scales=0.3), cameras),
    "batches": (lambda: scene(batch=2, seed=2), lambda: cameras(batch=2, view=3)),
    "off-screen": (lambda: beside(scene(seed=3)), cameras),
    "behind": (lambda: change(scene(seed=4), slice(0, 30), means=[0.0, -3.0, -4.0]), lambda: cameras(view=3)),
    "huge": (lambda: change(scene(seed=5), slice(0, 5), scales=30.0, opacities=0.3), cameras),
    "tiny": (lambda: change(scene(seed=6), slice(0, 39), scales=1e-6), cameras),
    "transparent": (lambda: change(scene(seed=7), slice(0, 30), opacities=0.003), cameras),
    "flat colors": (lambda: scene(degree=0, seed=8), lambda: cameras(view=2)),
    "degree 2": (lambda: scene(degree=2, seed=9), lambda: cameras(view=2)),
    "degree 3": (lambda: scene(degree=3, seed=10), lambda: cameras(view=2)),
    "degree 4": (lambda: scene(degree=4, seed=11), lambda: cameras(view=2)),
    "many bands": (lambda: scene(count=60, seed=12), lambda: cameras(width=70, height=50)),
    "nothing visible": (lambda: change(scene(seed=13), slice(0, 40), means=[0.0, -9.0, -9.0]), cameras),
}


def gradients(rendering: Rendering, leaves: list[Tensor], seed: int = 0) -> list[Tensor]:
    """Of a random weighting of all three outputs."""
    loss = torch.zeros((), dtype=torch.float64, device=leaves[0].device)
    for image in (rendering.rgb, rendering.depth, rendering.alpha):
        weight = torch.from_numpy(np.random.default_rng(seed).normal(size=image.shape)).to(image.device)
        loss = loss + (image.double() * weight).sum()
    return list(torch.autograd.grad(loss, leaves, materialize_grads=True))


def leaves_of(gaussians: Gaussians, dtype: torch.dtype, device: str = "cpu") -> Gaussians:
    return Gaussians(*(getattr(gaussians, f).detach().clone().to(device, dtype).requires_grad_() for f in FIELDS))


def assert_close(actual: Tensor, expected: Tensor, name: str, tolerance: float = 2e-5) -> None:
    scale = max(1.0, float(expected.detach().abs().max()))
    error = float((actual.detach().cpu().double() - expected.detach()).abs().max()) / scale
    assert error <= tolerance, f"{name}: {error:.1e}"
