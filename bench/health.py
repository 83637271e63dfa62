"""Signs that a training goes wrong, recorded as it goes and warned about within 50 steps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bench.data.batch import Batch
from models.ead import EAD
from models.tensors import Gaussians

EVERY = 10  # steps between looks at the Gaussians
GRACE = 20  # steps at the start without warnings: an untrained model is allowed to look ill
TRANSPARENT = 0.05

LIMITS = {  # share of Gaussians → the warning above 90 %
    "health/transparent": "{:.0%} of the Gaussians have an opacity below 0.05: the model is fading out",
    "health/scale_cap": "{:.0%} of the scales are at their cap: raise model.output.scale_max, or geometry is lost",
    "health/behind": "{:.0%} of the means lie behind the target cameras: check the frame and the cameras",
    "health/out_of_frame": "{:.0%} of the means in front of the target cameras project outside the images",
}
WARN_ABOVE = 0.9
STILL = 1.0e-12  # gradient norm of a part below which nothing reaches it


class NonFinite(Exception):
    """Training met NaN or infinity; the text names the step and what went bad first."""


@torch.no_grad()
def gaussians_health(gaussians: Gaussians, batch: Batch, scale_max: float) -> dict[str, Tensor]:
    """Shares of the batch's Gaussians that are transparent, at the cap, behind or outside every-view's frame."""
    cameras = batch.target_cameras
    means = gaussians.means.flatten(1, -2).float()
    local = torch.einsum("bvij,bnj->bvni", cameras.world_to_camera[..., :3, :3], means)
    local = local + cameras.world_to_camera[..., None, :3, 3]
    behind = local[..., 2] <= 0
    pixels = torch.einsum("bvij,bvnj->bvni", cameras.intrinsics, local)
    pixels = pixels[..., :2] / pixels[..., 2:].clamp(min=1e-6)
    size = pixels.new_tensor([cameras.width, cameras.height])
    outside = ((pixels < 0) | (pixels > size)).any(-1) & ~behind
    return {
        "health/transparent": (gaussians.opacities < TRANSPARENT).float().mean(),
        "health/scale_cap": (gaussians.scales > 0.99 * scale_max).float().mean(),
        "health/behind": behind.float().mean(),
        "health/out_of_frame": outside.float().mean(),
    }


def gradient_norms(model: EAD) -> dict[str, Tensor]:
    """Norm of each part's gradient, before clipping."""
    norms = {}
    for name, part in model.parts().items():
        gradients = [p.grad for p in part.parameters() if p.grad is not None]
        if gradients:
            norms[f"gradient_norm/{name}"] = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    return norms


def warnings(record: Mapping[str, float], step: int) -> list[str]:
    """What a step's record says is wrong."""
    if step < GRACE:
        return []
    found = [text.format(record[key]) for key, text in LIMITS.items() if record.get(key, 0.0) > WARN_ABOVE]
    for key, value in record.items():
        if key.startswith("gradient_norm/") and value < STILL:
            found.append(f"no gradient reaches the {key.removeprefix('gradient_norm/')}")
    return found
