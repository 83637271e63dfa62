"""3D Gaussians: rasterized; those that belong to pixels give a surface point each, their mean."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bench.data.batch import Batch
from bench.outputs import Capability, OutputType, Points
from bench.rendering import Rendering, render
from models.ead import EADSpec
from models.parts import OutputSpec
from models.tensors import Cameras, Gaussians, constant

TRANSPARENT = 0.05  # opacity
AT_CAP = 0.99  # of the largest scale there can be


class GaussiansType(OutputType):
    limits = {
        "health/transparent": (
            0.9, "{:.0%} of the Gaussians have an opacity below 0.05: the model is fading out"
        ),
        "health/scale_cap": (
            0.7, "{:.0%} of the scales are at their cap: see model.output.scale_max and the frame's unit"
        ),
        "health/behind": (
            0.5, "{:.0%} of the means lie behind the target cameras: check the frame and the cameras"
        ),
        "health/out_of_frame": (
            0.7, "{:.0%} of the means fall outside the target images: check the frame and the cameras"
        ),
    }  # fmt: skip

    def capabilities(self, model: EADSpec) -> frozenset[Capability]:
        tokens = model.aggregator.levels(model.encoder.tokens())[-1]
        return frozenset({"rendering", "surface_points"}) if tokens.layout == "views" else frozenset({"rendering"})

    def render(self, output: Gaussians, cameras: Cameras, background: Float[Tensor, "batch target 3"]) -> Rendering:
        return render(output, cameras, background)

    def surface_points(self, output: Gaussians) -> Points | None:
        return output.means if output.pixel_aligned else None

    @torch.no_grad()
    def diagnostics(self, output: Gaussians, batch: Batch, spec: OutputSpec) -> dict[str, Tensor]:
        """health/transparent, scale_cap, behind (a target camera), out_of_frame (of a target image, in front of it).

        Of the Gaussians of foreground pixels, since no loss constrains where the others are.
        """
        weight = foreground_weight(output, batch)
        behind, outside = outside_frustum(output.means.flatten(1, -2), batch)
        at_cap = output.scales > AT_CAP * float(getattr(spec, "scale_max", "inf"))
        return {
            "health/transparent": ((output.opacities.flatten(1) < TRANSPARENT) * weight).sum(),
            "health/scale_cap": (at_cap.flatten(1, -2).float().mean(-1) * weight).sum(),
            "health/behind": (behind.float().mean(1) * weight).sum(),
            "health/out_of_frame": (outside.float().mean(1) * weight).sum(),
        }


TYPE = GaussiansType()


def foreground_weight(output: Gaussians, batch: Batch) -> Float[Tensor, "batch gaussian"]:
    """Sums to 1 per scene; all count where Gaussians are no pixels, or no pixel is foreground."""
    counted = torch.ones_like(output.opacities)
    if output.pixel_aligned and counted.shape == batch.input_mask.shape:
        foreground = batch.input_mask.to(counted)
        counted = torch.where(foreground.flatten(1).any(1)[:, None, None, None], foreground, counted)
    counted = counted.flatten(1)
    return counted / counted.sum(1, keepdim=True)


def outside_frustum(
    means: Float[Tensor, "batch gaussian 3"], batch: Batch
) -> tuple[Bool[Tensor, "batch target gaussian"], Bool[Tensor, "batch target gaussian"]]:
    """Behind each target camera; in front of it, but outside its image."""
    cameras = batch.target_cameras
    local: Any = torch.einsum("bvij,bnj->bvni", cameras.world_to_camera[..., :3, :3], means.float())
    local = local + cameras.world_to_camera[..., None, :3, 3]
    behind = local[..., 2] <= 0
    pixels = torch.einsum("bvij,bvnj->bvni", cameras.intrinsics, local)
    pixels = pixels[..., :2] / pixels[..., 2:].clamp(min=1e-6)
    size = constant(pixels, cameras.width, cameras.height)
    return behind, ((pixels < 0) | (pixels > size)).any(-1) & ~behind
