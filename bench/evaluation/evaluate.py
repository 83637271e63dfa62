"""The evaluation stage: a trained model under one protocol → `evals/<protocol>@<version>.json` and `samples/`."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import models
from bench import protocols
from bench.common.console import track
from bench.common.errors import UserError
from bench.common.json_files import write_json
from bench.config.schema import RunSpec
from bench.data.batch import Batch
from bench.data.sampler import Sampler
from bench.data.scene import DataSource
from bench.data.storage import broken
from bench.evaluation import baselines, metrics
from bench.evaluation.scene_record import resolve_splits, verify_unchanged
from bench.protocols import Protocol
from bench.rendering import Rendering, render
from bench.runs.folder import RunFolder
from bench.runs.writer import Writer
from bench.runtime import numerics, provenance
from models.ead import EAD, count_parameters
from models.tensors import Gaussians

SAMPLES = 4  # scenes kept for the figures
PIXELS = 2**17  # target pixels a forward pass, so that 256² images do not fill the memory

Values = Mapping[str, Tensor]  # metric → (batch, view)


@dataclass
class Scores:
    """Values of every scene and view; nan where a metric is not defined."""

    per_view: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, scenes: Sequence[str], values: Values) -> None:
        for i, scene in enumerate(scenes):
            entry = self.per_view.setdefault(scene, {})
            entry.update({name: [float(v) for v in value[i]] for name, value in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """means: views → scene → mean over scenes; ready for JSON, with null for what is not defined."""
        per_scene = {s: {m: _mean(v) for m, v in values.items()} for s, values in self.per_view.items()}
        names = list(dict.fromkeys(name for values in per_scene.values() for name in values))
        means = {name: _mean([values.get(name, math.nan) for values in per_scene.values()]) for name in names}
        result: dict[str, Any] = _null({"means": means, "per_scene": per_scene, "per_view": self.per_view})
        return result


def evaluate(
    spec: RunSpec, writer: Writer, *, device: torch.device, source: DataSource, protocol: str = "per_image_white"
) -> None:
    """Evaluate the model of `writer.folder`; commits samples, then the result. Raises UserError."""
    chosen = protocols.get(protocol)
    started = time.perf_counter()
    numerics.configure(device, numerics.EVALUATION_PRECISION, spec.seed)
    this = provenance.of_stage(spec.model.precision, device)
    model = models.load(writer.folder, device)
    sampler = Sampler(source, spec.views, spec.seed, spec.model.poses)
    scenes = sampler.evaluation_scenes(spec.evaluation.scenes)
    verify_unchanged(resolve_splits(spec, source), RunFolder(writer.folder), source)
    measure = metrics.ImageMetrics(chosen, device)
    size = max(1, PIXELS // (spec.views.targets * spec.model.image_size**2))
    batches = (batch.to(device) for batch in sampler.evaluation_batches(scenes, size, chosen.background_gray))
    shown = track(batches, f"evaluating {len(scenes)} scenes in batches of {size}", math.ceil(len(scenes) / size))
    result, samples = evaluate_batches(model, shown, measure)
    if not result["scenes"]:
        raise UserError(f"data: none of {len(scenes)} evaluation scenes can be used:\n{broken.table(sampler.broken)}")
    writer.commit("samples", lambda folder: _save_samples(folder, samples))
    result |= {
        "missing": measure.missing,
        "broken": broken.rows(sampler.broken),
        "data": spec.data.to_dict(),
        "frame": spec.views.frame,
        "image_size": spec.model.image_size,
        "provenance": this,
        "device": str(device),
        "seconds": round(time.perf_counter() - started, 3),
    }
    writer.commit(f"evals/{chosen.key}.json", lambda path: write_json(path, result))


def evaluate_batches(
    model: EAD, batches: Iterator[Batch], measure: metrics.ImageMetrics
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The result, ready for JSON, and the first scenes' arrays for the figures."""
    protocol, compared = measure.protocol, baselines.baselines_of(measure.protocol)
    scores = {"model": Scores()} | {baseline.name: Scores() for baseline in compared}
    views: dict[str, dict[str, list[int]]] = {}
    samples: list[dict[str, Any]] = []
    for batch in batches:
        gaussians, rendering = predict(model, batch)
        images = {"model": rendering.rgb}
        images |= {baseline.name: baseline.predict(batch, protocol.foreground_alpha) for baseline in compared}
        for name, values in measure(images, batch.targets, batch.target_alpha > protocol.foreground_alpha).items():
            scores[name].add(batch.scenes, values)
        scores["model"].add(batch.scenes, geometry_metrics(model, gaussians, rendering, batch, protocol))
        for i, scene in enumerate(batch.scenes):
            views[scene] = {"inputs": batch.input_views[i].tolist(), "targets": batch.target_views[i].tolist()}
        samples += _samples(batch, gaussians, rendering, SAMPLES - len(samples))
    result = {
        "protocol": protocol.to_dict(),
        "scenes": list(views),
        "views": views,
        "parameters": count_parameters(model),
        **scores["model"].to_dict(),
        "baselines": {b.name: {"label": b.label, "oracle": b.oracle, **scores[b.name].to_dict()} for b in compared},
    }
    return result, samples


@torch.no_grad()
def predict(model: EAD, batch: Batch) -> tuple[Gaussians, Rendering]:
    """Gaussians of the inputs, and their target views on the batch's background."""
    gaussians = model(batch.inputs)
    return gaussians, render(gaussians, batch.target_cameras, batch.background)


def geometry_metrics(
    model: EAD, gaussians: Gaussians, rendering: Rendering, batch: Batch, protocol: Protocol
) -> Values:
    """depth_error a target view, point_error an input view, grid ratios of the first input view."""
    mask, patch = batch.input_mask[:, 0], model.spec.encoder.tokens().patch
    foreground = batch.target_alpha > protocol.foreground_alpha
    return {
        "depth_error": metrics.depth_error(rendering.depth, batch.target_depth, foreground),
        "point_error": metrics.point_error(gaussians.means, batch.input_points, batch.input_mask),
        "grid_ratio": metrics.grid_ratio(_first_depth(gaussians.means, batch), mask, patch)[:, None],
        "grid_ratio_true": metrics.grid_ratio(_first_depth(batch.input_points, batch), mask, patch)[:, None],
    }


def _first_depth(points: Tensor, batch: Batch) -> Tensor:
    """z of the first input view's points along its optical axis: (batch, height, width)."""
    camera = batch.input_cameras.world_to_camera[:, 0]
    return torch.einsum("bj,bhwj->bhw", camera[:, 2, :3], points[:, 0]) + camera[:, 2, 3, None, None]


def _samples(batch: Batch, gaussians: Gaussians, rendering: Rendering, count: int) -> list[dict[str, Any]]:
    depth, true_depth = _first_depth(gaussians.means, batch), _first_depth(batch.input_points, batch)
    return [
        {
            "scene": batch.scenes[i],
            "inputs": _pixels(batch.inputs.images[i]),
            "truth": _pixels(batch.targets[i]),
            "rendered": _pixels(rendering.rgb[i]),
            "depth": depth[i].float().cpu().numpy(),
            "true_depth": true_depth[i].float().cpu().numpy(),
            "mask": batch.input_mask[i, 0].cpu().numpy(),
        }
        for i in range(min(count, len(batch.scenes)))
    ]


def _pixels(images: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(view, 3, height, width) in [0, 1] → (view, height, width, 3) in 0…255."""
    return (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def _save_samples(folder: Path, samples: Sequence[Mapping[str, Any]]) -> None:
    """Inputs, truth, renderings, first view's depth and mask of the first evaluation scenes, in one npz."""
    folder.mkdir(parents=True, exist_ok=True)
    stacked = {key: np.stack([np.asarray(sample[key]) for sample in samples]) for key in samples[0]}
    np.savez_compressed(folder / "evaluation.npz", **stacked)  # type: ignore[arg-type]


def _mean(values: Sequence[float]) -> float:
    """Of what is defined; nan if nothing is."""
    defined = [value for value in values if math.isfinite(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def _null(value: Any) -> Any:
    """nan → None, which JSON can say."""
    if isinstance(value, dict):
        return {key: _null(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_null(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
