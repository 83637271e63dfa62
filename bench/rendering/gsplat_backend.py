"""gsplat 1.5 on CUDA: its rasterizer, with our spherical harmonics and background."""

from __future__ import annotations

from torch import Tensor

from bench.rendering.interface import Layers


def rasterize(
    means: Tensor,
    rotations: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    cameras: Tensor,
    intrinsics: Tensor,
    width: int,
    height: int,
    near: float,
    far: float,
) -> Layers:
    """See bench.rendering.interface.Rasterize."""
    from gsplat import rasterization

    images, alphas, _ = rasterization(
        means,
        rotations,
        scales,
        opacities,
        colors.expand(-1, cameras.shape[1], -1, -1),
        cameras,
        intrinsics,
        width,
        height,
        near_plane=near,
        far_plane=far,
        packed=False,  # the packed backward mixes the gradients of different scenes
        render_mode="RGB+D",
    )
    return Layers(color=images[..., :3].movedim(-1, 2), depth=images[..., 3], transmittance=1 - alphas[..., 0])
