"""The training stage: the paper's recipe (§2.6, §3.2), one step after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.profiler import record_function

from bench.common.errors import UserError
from bench.common.json_files import read_lines, write_json
from bench.config.source_hash import source_hashes
from bench.data.batch import Batch
from bench.data.sampler import Sampler, batches
from bench.evaluation import scene_record as scenes
from bench.losses import LossSpec, Prediction, Term
from bench.rendering import render
from bench.runs.folder import BEST, RunFolder
from bench.runs.writer import Writer
from bench.runtime import numerics, provenance
from bench.runtime.distributed import SINGLE_PROCESS, DistributedContext
from bench.training import (
    checkpoint,
    diagnostics,
    initialization,
    optimizer,
)
from bench.training.best_checkpoint import BestCheckpoint
from bench.training.metrics_log import MetricsLog, StepRecord, Stopwatch
from models import weights
from models.ead import EAD

if TYPE_CHECKING:
    from bench.config.schema import RunSpec
    from bench.data.scene import DataSource


SESSIONS = "sessions.jsonl"  # the provenance of each session of a training that is not finished


class Stopped(Exception):
    """Training was asked to stop and has written a checkpoint."""


def train(
    spec: RunSpec,
    writer: Writer,
    *,
    device: torch.device,
    source: DataSource,
    ranks: DistributedContext = SINGLE_PROCESS,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train to the end, once; without steps the given weights are the model's. Raises NonFinite, Stopped, UserError."""
    if RunFolder(writer.folder).training() is not None:
        remove_training_state(writer)
    elif spec.train.steps:
        run_steps(spec, writer, device, source, ranks, stop)
    elif ranks.is_first:
        numerics.configure(device, spec.train.matmul_precision, spec.seed)
        use_given_weights(spec, writer, source, device)


def run_steps(
    spec: RunSpec,
    writer: Writer,
    device: torch.device,
    source: DataSource,
    ranks: DistributedContext,
    stop: Callable[[], bool],
) -> None:
    """The loop, from the newest checkpoint if there is one, to the last step."""
    started = time.perf_counter()
    sampler = Sampler(source, spec.views, spec.seed, spec.model.poses)
    files = source_hashes(spec)
    if ranks.is_first:
        scenes.record_or_verify_scenes(spec, source, writer)
    trainer = Trainer(spec, device, ranks, runs=writer.folder.parent)
    session = provenance.of_stage(spec.model.precision, device)
    done, warnings = checkpoint.restore(writer.folder, trainer.model, trainer.optimizer)
    if len(steps_done := {said["done"] for said in ranks.gather({"done": done})}) > 1:
        raise UserError(f"{writer.folder}: ranks see checkpoints of different steps, {sorted(steps_done)}: try again")
    samples = ranks.samples(spec.train.batch)
    if ranks.is_first:
        writer.append(SESSIONS, {"from_step": done, **session})
    journal = MetricsLog(writer if ranks.is_first else None, trainer.model, warnings,
                      lambda step: sampler.training(step - 1, samples).to(device))  # fmt: skip
    best = BestCheckpoint(spec, sampler, writer)

    left = range(done, spec.train.steps)
    clock = Stopwatch.started()
    for step, batch in zip(left, batches(sampler, left, samples), strict=True):
        data_wait_ms = clock.lap_ms()
        batch = batch.to(device)
        values = trainer.step(step, batch)
        journal.flush()  # the step before this one
        numbers = {
            "learning_rate": optimizer.learning_rate(step, spec.train),
            "data_wait_ms": data_wait_ms,
            "step_time_ms": data_wait_ms + clock.lap_ms(),
        }
        if ranks.is_first:
            numbers |= best.maybe_validate(step + 1, trainer.model)
        journal.log_deferred(StepRecord(step + 1, values, numbers, batch.scenes))

        last, stopping = step + 1 == spec.train.steps, ranks.any(stop())
        if last or stopping or (step + 1) % spec.train.checkpoint_every == 0:
            journal.flush()
            if ranks.is_first:
                scenes.record_broken(writer, sampler)
                checkpoint.save(writer, step + 1, trainer.model, trainer.optimizer, warnings)
        if stopping and not last:
            raise Stopped(f"stopped after step {step + 1} of {spec.train.steps}; a checkpoint is written")
        clock.lap_ms()

    if ranks.is_first:
        summary = {"warnings": list(warnings.values()), "last_session_s": time.perf_counter() - started, "code": files}
        finish(writer, trainer, summary | {"provenance": session | {"sessions": sessions(writer.folder)}})


class Trainer:
    """Model, optimizer and loss terms of one run, and what one step does with them."""

    def __init__(
        self, spec: RunSpec, device: torch.device, ranks: DistributedContext = SINGLE_PROCESS, runs: Path | None = None
    ) -> None:
        numerics.configure(device, spec.train.matmul_precision, spec.seed)
        self.spec, self.ranks = spec, ranks
        self.model: EAD = initialization.build(spec, runs).to(device).train()
        self.forward = torch.compile(self.model) if spec.train.compile else self.model
        self.optimizer = optimizer.build(self.model, spec.train)
        self.losses = {name: loss for name, loss in spec.losses.items() if isinstance(loss, LossSpec) and loss.weight}
        self.terms: Mapping[str, Term] = {name: loss.build(device) for name, loss in self.losses.items()}
        self.scale_max = float(getattr(spec.model.output, "scale_max", "inf"))

    def step(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """Forward, backward, update: step 0, 1, … on this rank's scenes. Gives what is to be recorded, unread."""
        for group in self.optimizer.param_groups:
            group["lr"] = optimizer.learning_rate(step, self.spec.train)
        self.optimizer.zero_grad(set_to_none=True)
        values = self.ranks.reduce(self.accumulate(step, batch))
        self.ranks.reduce_gradients(self.model)
        norms = diagnostics.gradient_norms(self.model)
        norm = torch.linalg.vector_norm(torch.stack(list(norms.values())))
        with record_function("optimizer"):
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self.spec.train.gradient_clip, norm)
            self.optimizer.update(norm)
        return values | norms

    def accumulate(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """The batch's share of the step's losses, micro-batch by micro-batch, each backpropagated."""
        size = self.spec.train.micro_batch or len(batch.scenes)
        totals: dict[str, Tensor] = {}
        for start in range(0, len(batch.scenes), size):
            part = batch if size >= len(batch.scenes) else batch.scenes_at(start, start + size)
            for name, value in self.backward(step, part).items():
                totals[name] = totals[name] + value if name in totals else value
        return totals

    def backward(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """Eq. 6 for some of the step's scenes: the sum of their values, divided by the scenes of the whole step."""
        scenes = self.spec.train.batch
        prediction = self.predict(step, batch)
        with record_function("losses"):
            losses = {
                name: term(prediction, batch).sum() / scenes
                for name, term in self.terms.items()
                if prediction.rendering is not None or not self.losses[name].needs_rendering
            }
            total = torch.stack([self.losses[name].weight * value for name, value in losses.items()]).sum()
        with record_function("backward"):
            torch.autograd.backward(total)
        values = {"loss": total.detach()} | {f"loss/{name}": value.detach() for name, value in losses.items()}
        if step % diagnostics.EVERY == 0:
            found = diagnostics.gaussian_statistics(prediction.gaussians, batch, self.scale_max)
            values |= {name: value / scenes for name, value in found.items()}
        return values

    def predict(self, step: int, batch: Batch) -> Prediction:
        """Gaussians of the inputs; rendered in the target cameras, unless L_3D still trains alone."""
        gaussians = self.forward(batch.inputs)
        if step < optimizer.geometry_steps(self.spec.train):
            return Prediction(gaussians, None)
        with record_function("rasterize"):
            rendering = render(gaussians, batch.target_cameras, batch.background)
        return Prediction(gaussians, rendering)


def use_given_weights(spec: RunSpec, writer: Writer, source: DataSource, device: torch.device) -> None:
    """Without a step of training, what `init` gives is the run's model. Raises UserError.

    A model that a run has trained is not evaluated on the scenes that it was trained on.
    """
    evaluation = scenes.record_or_verify_scenes(spec, source, writer)["evaluation"]
    if seen := initialization.trained_scenes(spec, writer.folder.parent) & set(evaluation):
        raise UserError(f"data: the given weights were trained on {len(seen)} of these scenes, {min(seen)} among them")
    content = {"steps": 0, "warnings": [], "code": source_hashes(spec), "provenance": provenance.of_stage(spec.model.precision, device)}
    _commit(writer, initialization.build(spec, writer.folder.parent), content)


def finish(writer: Writer, trainer: Trainer, summary: Mapping[str, Any]) -> None:
    """What there is to say of a training that has come to its end; then checkpoints and optimizer state go."""
    folder = RunFolder(writer.folder)
    best, steps = folder.best(), folder.metrics()
    if best:
        weights.load_strict(trainer.model, load_file(folder.path / BEST / weights.WEIGHTS_FILE), source=BEST)
    step_ms, wait_ms = (sum(record[key] for record in steps) for key in ("step_time_ms", "data_wait_ms"))
    content = {
        "steps": trainer.spec.train.steps,
        "training_s": step_ms / 1000,
        "data_wait_share": wait_ms / step_ms if step_ms else None,
        "kept": best or {"step": trainer.spec.train.steps},
        "final": {key: value for key, value in steps[-1].items() if key.startswith("loss")},
        "threads": torch.get_num_threads(),
        **summary,
    }
    _commit(writer, trainer.model, content)
    remove_training_state(writer)


def sessions(folder: Path) -> list[dict[str, Any]]:
    """Of those that took part in training, in order: what differs between them. One that got no further than the
    checkpoint from which a later one started left nothing in the result."""
    records = read_lines(folder / SESSIONS)
    kept = ("from_step", "time", "commit", "local_changes", "host", "device_name")
    return [
        {key: record[key] for key in kept}
        for i, record in enumerate(records)
        if all(later["from_step"] > record["from_step"] for later in records[i + 1 :])
    ]


def remove_training_state(writer: Writer) -> None:
    """What only unfinished training needs."""
    checkpoint.remove(writer)
    writer.remove(SESSIONS)
    writer.remove(BEST)


def _commit(writer: Writer, model: EAD, content: Mapping[str, Any]) -> None:
    """The weights, then train.json, which says that the stage is done."""
    writer.commit(weights.SPEC_FILE, lambda path: weights.save_spec(model, path))
    writer.commit(weights.WEIGHTS_FILE, lambda path: weights.save_weights(model, path))
    writer.commit("train.json", lambda path: write_json(path, content))
