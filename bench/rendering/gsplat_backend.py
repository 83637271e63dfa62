"""gsplat 1.5 on CUDA: its rasteriser, with our spherical harmonics and background."""

from __future__ import annotations

from torch import Tensor

from bench.rendering.layers import Layers


def rasterise(
    means: Tensor,
    rotations: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colours: Tensor,
    cameras: Tensor,
    intrinsics: Tensor,
    width: int,
    height: int,
    near: float,
    far: float,
) -> Layers:
    """See bench.rendering.layers.Rasterise."""
    from gsplat import rasterization

    images, alphas, _ = rasterization(
        means,
        rotations,
        scales,
        opacities,
        colours.expand(-1, cameras.shape[1], -1, -1),
        cameras,
        intrinsics,
        width,
        height,
        near_plane=near,
        far_plane=far,
        packed=False,  # the packed backward mixes the gradients of different scenes
        render_mode="RGB+D",
    )
    return Layers(colour=images[..., :3].movedim(-1, 2), depth=images[..., 3], transmittance=1 - alphas[..., 0])
