"""Symptoms of a failing training: recorded every few steps, warned about within 50 steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields

import torch
from torch import Tensor, nn

from bench.common.compat import tensor_norms
from bench.data.batch import Batch
from models.ead import EAD
from models.tensors import Dense, Gaussians, TensorDataclass

EVERY = 10  # steps between statistics of the output
WARMUP_STEPS = 20  # steps at the start without warnings: an untrained model has most of these symptoms
TRANSPARENT = 0.05  # opacity
AT_CAP = 0.99  # of the largest scale there can be
MIN_GRADIENT_NORM = 1.0e-12  # of a part; below it no gradient reaches the part

LIMITS = {  # a share of the foreground's Gaussians → the limit, and the warning above it
    "health/transparent": (0.9, "{:.0%} of the Gaussians have an opacity below 0.05: the model is fading out"),
    "health/scale_cap": (0.7, "{:.0%} of the scales are at their cap: see model.output.scale_max and the frame's unit"),
    "health/behind": (0.5, "{:.0%} of the means lie behind the target cameras: check the frame and the cameras"),
    "health/out_of_frame": (0.7, "{:.0%} of the means fall outside the target images: check the frame and the cameras"),
}


class NonFinite(Exception):
    """A value of training is NaN or infinite; the text names the step, the term and the first non-finite module."""


@torch.no_grad()
def gaussian_statistics(gaussians: Gaussians, batch: Batch, scale_max: float) -> dict[str, Tensor]:
    """Sums over scenes of per-scene shares.

    health/transparent, scale_cap, behind (a target camera), out_of_frame (of a target image, in front of its camera):
    of the Gaussians of foreground pixels, since no loss constrains where the others are. health/non_finite: of all
    values.
    """
    values = [getattr(gaussians, field.name).flatten(1) for field in fields(gaussians)]
    bad = torch.cat([~value.isfinite() for value in values], dim=1)
    weight = _foreground(gaussians, batch)
    behind, outside = _outside_frustum(gaussians.means.flatten(1, -2), batch)
    return {
        "health/transparent": _share(gaussians.opacities.flatten(1) < TRANSPARENT, weight),
        "health/scale_cap": _share((gaussians.scales > AT_CAP * scale_max).flatten(1, -2).float().mean(-1), weight),
        "health/behind": _share(behind.float().mean(1), weight),
        "health/out_of_frame": _share(outside.float().mean(1), weight),
        "health/non_finite": bad.float().mean(1).sum(),
    }


def _foreground(gaussians: Gaussians, batch: Batch) -> Tensor:
    """(batch, gaussian), summing to 1 per scene; all count where Gaussians are no pixels, or no pixel is foreground."""
    counted = torch.ones_like(gaussians.opacities)
    if counted.shape == batch.input_mask.shape:
        foreground = batch.input_mask.to(counted)
        counted = torch.where(foreground.flatten(1).any(1)[:, None, None, None], foreground, counted)
    counted = counted.flatten(1)
    return counted / counted.sum(1, keepdim=True)


def _outside_frustum(means: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """(batch, target, gaussian), twice: behind the camera; in front of it, but outside the image."""
    cameras = batch.target_cameras
    local = torch.einsum("bvij,bnj->bvni", cameras.world_to_camera[..., :3, :3], means.float())
    local = local + cameras.world_to_camera[..., None, :3, 3]
    behind = local[..., 2] <= 0
    pixels = torch.einsum("bvij,bvnj->bvni", cameras.intrinsics, local)
    pixels = pixels[..., :2] / pixels[..., 2:].clamp(min=1e-6)
    size = pixels.new_tensor([cameras.width, cameras.height])
    return behind, ((pixels < 0) | (pixels > size)).any(-1) & ~behind


def _share(flags: Tensor, weight: Tensor) -> Tensor:
    return (flags * weight).sum()


def gradient_norms(model: EAD) -> dict[str, Tensor]:
    """Norm of each part's gradient, before clipping."""
    norms = {}
    for name, part in model.parts().items():
        gradients = [p.grad for p in part.parameters() if p.grad is not None]
        if gradients:
            norms[f"gradient_norm/{name}"] = torch.linalg.vector_norm(torch.stack(tensor_norms(gradients)))
    return norms


def warnings(record: Mapping[str, float], step: int) -> dict[str, str]:
    """{key of the record: warning} of a step. Steps count from 1."""
    if step <= WARMUP_STEPS:
        return {}
    texts = {}
    for key, (limit, text) in LIMITS.items():
        if record.get(key, 0.0) > limit:
            texts[key] = f"step {step}: {text.format(record[key])}"
    for key, value in record.items():
        if key.startswith("gradient_norm/") and value < MIN_GRADIENT_NORM:
            texts[key] = f"step {step}: no gradient reaches the {key.removeprefix('gradient_norm/')}"
    return texts


def first_nonfinite_value(record: Mapping[str, float]) -> str | None:
    """The first non-finite value: a loss term, else a part's gradient, in the order of the backward pass."""
    order = ["gradient_norm/head", "gradient_norm/aggregator", "gradient_norm/encoder"]
    terms = [key for key in record if key.startswith("loss/")]
    for key in [*terms, *order, *record]:
        if key in record and not math.isfinite(record[key]):
            return key
    return "the Gaussians" if record.get("health/non_finite", 0.0) > 0 else None


@torch.no_grad()
def first_nonfinite_module(model: EAD, batch: Batch) -> str:
    """Where, from the images to the Gaussians, values first stop being finite: a part's weights or its output."""
    if not _finite(batch):
        return "the data"
    outputs: dict[str, object] = {}
    modules: dict[str, nn.Module] = {**model.parts(), "output": model.output}
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: outputs.update({name: output}))
        for name, module in modules.items()
    ]
    try:
        model(batch.inputs)
    finally:
        for hook in hooks:
            hook.remove()
    for name, module in modules.items():
        if not all(bool(parameter.isfinite().all()) for parameter in module.parameters()):
            return f"the {name}'s weights"
        if not _finite(outputs[name]):
            return f"the output of the {name}"
    return "rendering, a loss term or the backward pass (weights, parts and data are finite)"


def _finite(value: object) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in _tensors(value))


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, TensorDataclass | Dense):
        yield from _tensors(list(vars(value).values()))
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
