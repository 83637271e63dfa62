"""Symptoms of a failing training: recorded every few steps, warned about within 50 steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from bench import outputs
from bench.common.compat import tensor_norms
from bench.common.errors import NonFinite as NonFinite
from bench.data.batch import Batch
from bench.training.sharding import whole
from models.ead import EAD
from models.parts import OutputSpec
from models.tensors import tensors_of

EVERY = 10  # steps between statistics of the output
WARMUP_STEPS = 20  # steps at the start without warnings: an untrained model has most of these symptoms
MIN_GRADIENT_NORM = 1.0e-12  # of a part; below it no gradient reaches the part


@torch.no_grad()
def output_statistics(output: object, batch: Batch, spec: OutputSpec) -> dict[str, Tensor]:
    """Sums over scenes of per-scene shares: those of the output's type, and health/non_finite of all values."""
    return {
        **outputs.of(output).diagnostics(output, batch, spec),
        "health/non_finite": outputs.non_finite(output).sum(),
    }


def gradient_norms(parts: Mapping[str, Sequence[nn.Parameter]]) -> dict[str, Tensor]:
    """Norm of each part's gradient, before clipping."""
    norms = {}
    for name, parameters in parts.items():
        gradients = [p.grad for p in parameters if p.grad is not None]
        if gradients:
            norms[f"gradient_norm/{name}"] = whole(torch.linalg.vector_norm(torch.stack(tensor_norms(gradients))))
    return norms


def warnings(record: Mapping[str, float], step: int, limits: Mapping[str, tuple[float, str]]) -> dict[str, str]:
    """{key of the record: warning} of a step. Steps count from 1; `limits` are those of the output's type."""
    if step <= WARMUP_STEPS:
        return {}
    texts = {}
    for key, (limit, text) in limits.items():
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
    return "the model's output" if record.get("health/non_finite", 0.0) > 0 else None


@torch.no_grad()
def first_nonfinite_module(model: EAD, batch: Batch) -> str:
    """Where, from the images to the output, values first stop being finite: a part's weights or its output."""
    if not _finite(batch):
        return "the data"
    outputs: dict[str, object] = {}
    modules: dict[str, nn.Module] = model.parts() | {"output": model.output}
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: outputs.update({name: output}))
        for name, module in modules.items()
    ]
    try:
        with torch.compiler.set_stance("force_eager"):  # what is compiled already calls no hooks
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
    return all(bool(tensor.isfinite().all()) for tensor in tensors_of(value))
