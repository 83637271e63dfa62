"""The training stage: the paper's recipe (§2.6, §3.2), one step after another."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bench import checkpoint, health, initialise
from bench.data.batch import Batch
from bench.data.sampler import Sampler, batches
from bench.health import NonFinite
from bench.losses import LossSpec, Prediction, Term
from bench.ranks import Ranks
from bench.record import RunFolder, Writer, write_json
from bench.rendering import render
from models import weights
from models.ead import EAD

if TYPE_CHECKING:
    from bench.data.scene import DataSource
    from bench.spec.schema import RunSpec, Train

log = logging.getLogger(__name__)


class Stopped(Exception):
    """Training was asked to stop and has written a checkpoint."""


def train(
    spec: RunSpec,
    writer: Writer,
    *,
    device: torch.device,
    source: DataSource,
    ranks: Ranks = Ranks(),
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train to the end, from the newest checkpoint if there is one. Raises NonFinite, Stopped, BadInput."""
    started = time.perf_counter()
    trainer = Trainer(spec, device, ranks, runs=writer.folder.parent)
    done, warnings = checkpoint.restore(writer.folder, trainer.model, trainer.optimiser)
    sampler = Sampler(source, spec.views, spec.seed, spec.model.poses)
    _refuse_overlap(spec, sampler)

    steps = range(done, spec.train.steps)
    waiting = time.perf_counter()
    for step, batch in zip(steps, batches(sampler, steps, ranks.samples(spec.train.batch)), strict=True):
        waited_ms = (time.perf_counter() - waiting) * 1000
        record = trainer.step(step, batch.to(device))
        record |= {"step_time_ms": (time.perf_counter() - waiting) * 1000, "data_wait_ms": waited_ms}
        waiting = time.perf_counter()
        writer.append("metrics.jsonl", {"step": step + 1, **record})
        for text in health.warnings(record, step):
            if text not in warnings:
                warnings.append(text)
                log.warning("step %d: %s", step + 1, text)
        stopping = stop()
        if stopping or (step + 1) % spec.train.checkpoint_every == 0:
            checkpoint.save(writer, step + 1, trainer.model, trainer.optimiser, warnings)
        if stopping and step + 1 < spec.train.steps:
            raise Stopped(f"stopped after step {step + 1} of {spec.train.steps}; a checkpoint is written")

    _finish(spec, writer, trainer, sampler, warnings, time.perf_counter() - started)


class Trainer:
    """Model, optimiser and loss terms of one run, and what one step does with them."""

    def __init__(self, spec: RunSpec, device: torch.device, ranks: Ranks = Ranks(), runs: Any = None) -> None:
        torch.set_float32_matmul_precision(spec.train.matmul_precision)
        self.spec, self.ranks = spec, ranks
        self.model: EAD = initialise.build(spec, runs).to(device).train()
        self.forward = torch.compile(self.model) if spec.train.compile else self.model
        self.optimiser = optimiser(self.model, spec.train)
        self.losses = {name: loss for name, loss in spec.losses.items() if isinstance(loss, LossSpec) and loss.weight}
        self.terms: Mapping[str, Term] = {name: loss.build(device) for name, loss in self.losses.items()}
        self.scale_max = float(getattr(spec.model.output, "scale_max", math.inf))

    def step(self, step: int, batch: Batch) -> dict[str, float]:
        """Forward, backward, update; what is recorded of it. Raises NonFinite before the update."""
        train = self.spec.train
        rate = learning_rate(step, train)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        values = self.accumulate(step, batch)
        self.ranks.reduce_gradients(self.model)
        values |= health.gradient_norms(self.model)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), train.gradient_clip)
        record = dict(zip(values, torch.stack([*values.values()]).tolist(), strict=True))
        self._check(step, record, float(norm))
        self.optimiser.step()
        return record | {"learning_rate": rate}

    def accumulate(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """Losses of the batch, micro-batch by micro-batch, each backpropagated; the means over scenes."""
        size = self.spec.train.micro_batch or len(batch.scenes)
        totals: dict[str, Tensor] = {}
        for start in range(0, len(batch.scenes), size):
            part = batch if size >= len(batch.scenes) else batch.scenes_at(start, start + size)
            for name, value in self.backward(step, part, self.spec.train.batch).items():
                totals[name] = totals[name] + value if name in totals else value
        return totals

    def backward(self, step: int, batch: Batch, scenes: int) -> dict[str, Tensor]:
        """One micro-batch: its share of the mean over all `scenes` of the step."""
        prediction = self.predict(step, batch)
        values: dict[str, Tensor] = {}
        total = torch.zeros((), device=batch.targets.device)
        for name, term in self.terms.items():
            loss = self.losses[name]
            if loss.needs_rendering and prediction.rendering is None:
                continue
            with torch.profiler.record_function("losses"):
                value = term(prediction, batch).sum() / scenes
            total = total + loss.weight * value
            values[f"loss/{name}"] = value.detach()
        with torch.profiler.record_function("backward"):
            total.backward()
        result = {"loss": total.detach(), **values}
        if step % health.EVERY == 0:
            share = len(batch.scenes) / scenes
            found = health.gaussians_health(prediction.gaussians, batch, self.scale_max)
            result |= {name: value * share for name, value in found.items()}
        return result

    def predict(self, step: int, batch: Batch) -> Prediction:
        """Gaussians of the inputs; rendered in the target cameras, unless L_3D still trains alone."""
        gaussians = self.forward(batch.inputs)
        if step < geometry_steps(self.spec.train):
            return Prediction(gaussians, None)
        with torch.profiler.record_function("rasterise"):
            return Prediction(gaussians, render(gaussians, batch.target_cameras, batch.background))

    def _check(self, step: int, record: Mapping[str, float], norm: float) -> None:
        bad = [name for name, value in record.items() if not math.isfinite(value)]
        if bad or not math.isfinite(norm):
            raise NonFinite(f"step {step + 1}: {bad[0] if bad else 'the gradient'} is not finite")


def optimiser(model: EAD, train: Train) -> torch.optim.AdamW:
    """AdamW; vectors (biases, norms) and tables of positions and views do not decay."""
    decayed = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Linear | torch.nn.modules.conv._ConvNd)}
    groups = [
        {"params": [p for p in model.parameters() if (id(p) in decayed) is decays], "weight_decay": decay}
        for decays, decay in ((True, train.weight_decay), (False, 0.0))
    ]
    return torch.optim.AdamW(groups, lr=train.learning_rate, betas=train.betas)


def learning_rate(step: int, train: Train) -> float:
    """Of step 0, 1, …: linear warm-up, then cosine to the final rate at the last step (§3.2)."""
    if step < train.warmup_steps:
        return train.learning_rate * (step + 1) / train.warmup_steps
    progress = (step - train.warmup_steps) / max(1, train.steps - 1 - train.warmup_steps)
    half = (train.learning_rate - train.final_learning_rate) / 2
    return train.final_learning_rate + half * (1 + math.cos(math.pi * min(progress, 1.0)))


def geometry_steps(train: Train) -> int:
    """How many steps from the first train on L_3D alone."""
    return round(train.geometry_first * train.steps)


def _refuse_overlap(spec: RunSpec, sampler: Sampler) -> None:
    overlap = set(sampler.training_scenes) & set(sampler.evaluation_scenes(spec.evaluation.scenes))
    if overlap and not spec.views.overfit:
        raise ValueError(f"{len(overlap)} scenes are trained on and evaluated, {min(overlap)} among them")


def _finish(
    spec: RunSpec, writer: Writer, trainer: Trainer, sampler: Sampler, warnings: list[str], seconds: float
) -> None:
    """Weights, then the summary, which says that training is done; checkpoints go."""
    writer.commit(weights.SPEC_FILE, lambda path: weights.save_spec(trainer.model, path))
    writer.commit(weights.WEIGHTS_FILE, lambda path: weights.save_weights(trainer.model, path))
    steps = RunFolder(writer.folder).metrics()
    summary = {
        "steps": spec.train.steps,
        "last_session_s": seconds,
        "training_s": sum(record["step_time_ms"] for record in steps) / 1000,
        "data_wait_share": _share(steps),
        "final": {key: value for key, value in (steps[-1] if steps else {}).items() if key.startswith("loss")},
        "warnings": warnings,
        "threads": torch.get_num_threads(),
        "training_scenes": list(sampler.training_scenes),
        "evaluation_scenes": list(sampler.evaluation_scenes(spec.evaluation.scenes)),
    }
    writer.commit("train.json", lambda path: write_json(path, summary))
    shutil.rmtree(writer.folder / "checkpoints", ignore_errors=True)


def _share(steps: list[dict[str, Any]]) -> float | None:
    """Of step time spent waiting for data."""
    total = sum(record["step_time_ms"] for record in steps)
    return sum(record["data_wait_ms"] for record in steps) / total if total else None
