"""Outputs without pictures of the target views: what is measured of them, and the trivial baseline of each kind.

Pointmaps are compared with the best constant point, completed images (CroCo) with the mean of each hidden patch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bench import outputs
from bench.data.batch import Batch
from bench.evaluation import metrics
from bench.evaluation.baselines import Baseline
from bench.losses import LossSpec, Prediction, completion
from bench.rendering import Rendering
from models.parts import PartSpec
from models.tensors import Pixels

CONSTANT = Baseline("constant", "best constant point of each scene", False)
PATCH_MEAN = Baseline("patch_mean", "mean of each hidden patch", False)
BASELINES = (CONSTANT, PATCH_MEAN)
WEISZFELD_STEPS = 100

Values = dict[str, dict[str, Float[Tensor, "batch _"]]]  # method → metric → of every view


def prepare(losses: Mapping[str, PartSpec], batch: Batch, patch: int) -> Batch:
    """The batch as the terms read it (patches hidden), the same in every evaluation."""
    for loss in losses.values():
        if isinstance(loss, LossSpec):
            batch = loss.prepare(batch, patch=patch, seed=0, step=0)
    return batch


@torch.no_grad()
def score(output: object, rendering: Rendering | None, batch: Batch, losses: Mapping[str, PartSpec]) -> Values:
    """Of the model, what `bench.evaluation.metrics` does not measure; of the baseline of its kind, what it compares.

    Empty for outputs that give pictures.
    """
    kind = outputs.of(output)
    if rendering is not None:
        return {}
    if kind.surface_points(output) is not None:
        point = best_constant_point(batch.input_points, batch.input_mask)[:, None, None, None]
        error = metrics.point_error(point.expand_as(batch.input_points), batch.input_points, batch.input_mask)
        return {CONSTANT.name: {"point_error": error}}
    values: Values = {}
    for loss in losses.values():
        if isinstance(loss, completion.Spec) and kind.images(output) is not None:
            term = loss.build(batch.targets.device)
            trivial = Pixels(loss.patch_means(batch)[:, None])
            values["model"] = {"completion_error": term(Prediction(output), batch)[:, None]}
            values[PATCH_MEAN.name] = {"completion_error": term(Prediction(trivial), batch)[:, None]}
    return values


def best_constant_point(
    points: Float[Tensor, "batch view height width 3"], mask: Bool[Tensor, "batch view height width"]
) -> Float[Tensor, "batch 3"]:
    """The point of least mean distance to a scene's foreground points, views weighing alike (Weiszfeld's method)."""
    weight = mask.to(points) / mask.flatten(2).sum(2).clamp(min=1).to(points)[..., None, None]
    flat, weight = points.flatten(1, 3), weight.flatten(1)
    point = torch.einsum("bn,bnc->bc", weight, flat) / weight.sum(1).clamp(min=1e-9)[:, None]
    for _ in range(WEISZFELD_STEPS):
        pull = weight / (flat - point[:, None]).norm(dim=-1).clamp(min=1e-9)
        point = torch.einsum("bn,bnc->bc", pull, flat) / pull.sum(1).clamp(min=1e-9)[:, None]
    return point


def baselines_in(records: Sequence[Mapping[str, object]]) -> tuple[Baseline, ...]:
    """Those of BASELINES that any record of an evaluation holds."""
    methods = {method for record in records for method in record.get("values", {})}  # type: ignore[attr-defined]
    return tuple(baseline for baseline in BASELINES if baseline.name in methods)
