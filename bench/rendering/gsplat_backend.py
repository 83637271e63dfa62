"""gsplat 1.5 on CUDA: its rasterizer, with our spherical harmonics and background."""

from __future__ import annotations

from bench.rendering.interface import Layers, RasterInput


def rasterize(inputs: RasterInput) -> Layers:
    """See bench.rendering.interface.Rasterize."""
    from gsplat import rasterization

    images, alphas, _ = rasterization(
        inputs.means,
        inputs.rotations,
        inputs.scales,
        inputs.opacities,
        inputs.colors.expand(-1, inputs.world_to_camera.shape[1], -1, -1),
        inputs.world_to_camera,
        inputs.intrinsics,
        inputs.width,
        inputs.height,
        near_plane=inputs.near,
        far_plane=inputs.far,
        packed=False,  # the packed backward mixes the gradients of different scenes
        render_mode="RGB+D",
    )
    return Layers(color=images[..., :3].movedim(-1, 2), depth=images[..., 3], transmittance=1 - alphas[..., 0])
