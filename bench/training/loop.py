"""The training loop: one step after another, from the newest checkpoint to the last step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bench.common.errors import UserError
from bench.data.sampler import Sampler, batches
from bench.evaluation import scene_record
from bench.runs.writer import Writer
from bench.runtime import provenance
from bench.runtime.distributed import DistributedContext
from bench.training import checkpoint, ema, memorized, optimizer
from bench.training.best_checkpoint import BestCheckpoint
from bench.training.metrics_log import MetricsLog, StepRecord, Stopwatch
from bench.training.preview import Preview
from bench.training.sharding import is_model_sharded, whole_model
from bench.training.trainer import Trainer
from models.ead import EAD

if TYPE_CHECKING:
    import torch

    from bench.config.schema import RunSpec
    from bench.data.scene import DataSource

SESSIONS = "sessions.jsonl"  # the provenance of each session of an unfinished training


class Stopped(Exception):
    """Training was asked to stop and has written a checkpoint."""


def run_steps(
    spec: RunSpec,
    writer: Writer,
    *,
    device: torch.device,
    source: DataSource,
    ranks: DistributedContext,
    stop: Callable[[], bool],
) -> tuple[EAD, dict[str, Any]]:
    """Train to the last step, or until the check of `views.overfit` passes. Returns the model and the summary of this
    session, ready for JSON.

    Raises NonFinite (the checkpoint before that step stays), Stopped (a checkpoint is written) and UserError.
    """
    started = time.perf_counter()
    sampler = Sampler(source, spec.views, spec.seed, spec.model.known)
    if ranks.is_first:
        scene_record.record_or_verify_scenes(spec, source, writer)
    trainer = Trainer(spec, device, ranks, runs=writer.folder.parent)
    session = provenance.of_stage(spec.model.precision, device)
    first_step, warnings = checkpoint.restore(writer.folder, trainer.model, trainer.optimizer)
    _require_same_step(first_step, writer, ranks)
    samples = ranks.samples(spec.train.batch)
    metrics = MetricsLog(writer if ranks.is_first else None, trainer.model, warnings,
                         lambda step: sampler.training(step - 1, samples).to(device))  # fmt: skip
    between = BetweenSteps(trainer, sampler, writer, metrics, stop)
    if ranks.is_first:
        writer.append(SESSIONS, {"from_step": first_step, **session})

    completed = first_step
    steps = range(first_step, first_step if between.is_memorized(first_step) else spec.train.steps)
    clock = Stopwatch.started()
    with metrics:
        for step, batch in zip(steps, batches(sampler, steps, samples), strict=True):
            data_wait_ms = clock.lap_ms()
            batch = batch.to(device)
            values = trainer.step(step, batch)
            metrics.flush()  # the step before this one
            numbers = {
                "learning_rate": optimizer.learning_rate(step, spec.train),
                "data_wait_ms": data_wait_ms,
                "step_time_ms": data_wait_ms + clock.lap_ms(),
            }
            completed = step + 1
            if between.finish(StepRecord(completed, values, numbers, batch.scenes)):
                break
            clock.lap_ms()

    ema.exchange(trainer.optimizer)  # for good
    summary = {"steps": completed, "warnings": list(warnings.values()), "last_session_s": time.perf_counter() - started}
    return whole_model(trainer.model, ranks.is_first), summary | {"provenance": session}


class BetweenSteps:
    """What is done after a step and is part of no step's time: validation, its record, the check of `views.overfit`, a
    checkpoint, a stop, the preview."""

    def __init__(
        self, trainer: Trainer, sampler: Sampler, writer: Writer, metrics: MetricsLog, stop: Callable[[], bool]
    ) -> None:
        """Raises UserError where a validation is due that the data or the model does not allow."""
        self.trainer, self.sampler, self.writer, self.metrics, self.stop = trainer, sampler, writer, metrics, stop
        self.train, self.ranks = trainer.spec.train, trainer.ranks
        self.best = BestCheckpoint(trainer.spec, sampler, writer)
        self.preview = Preview(trainer.spec, sampler, writer)
        self.draws = self.ranks.is_first and not is_model_sharded(trainer.model)  # by this rank alone

    def finish(self, record: StepRecord) -> bool:
        """All that follows this step; whether it was the last. Raises NonFinite, Stopped and UserError."""
        if self.ranks.is_first:
            record.numbers |= self.best.maybe_validate(record.step, self.trainer.trained)
        self.metrics.log_deferred(record)
        last, stopping = record.step == self.train.steps, self.ranks.any(self.stop())
        last = last or self.is_memorized(record.step)
        if last or stopping or record.step % self.train.checkpoint_every == 0:
            self.save_checkpoint(record.step)
        if stopping and not last:
            raise Stopped(f"stopped after step {record.step} of {self.train.steps}; a checkpoint is written")
        if self.draws:
            self.preview.maybe_draw(record.step, self.trainer.trained)
        return last

    def is_memorized(self, step: int) -> bool:
        """Whether the check of `views.overfit` is due after `step` steps and passes."""
        spec, source = self.trainer.spec, self.sampler.source
        return memorized.is_due(spec, step) and self.ranks.any(
            self.ranks.is_first and memorized.is_memorized(spec, source, step, self.trainer.trained)
        )

    def save_checkpoint(self, step: int) -> None:
        """With the records of all steps up to this one, which its checkpoint stands for."""
        self.metrics.flush()
        self.metrics.write()
        if self.ranks.is_first:
            scene_record.record_broken(self.writer, self.sampler)
        writer = self.writer if self.ranks.is_first else None
        checkpoint.save(writer, step, self.trainer.model, self.trainer.optimizer, self.metrics.warnings)


def _require_same_step(step: int, writer: Writer, ranks: DistributedContext) -> None:
    """Raises UserError where the ranks read checkpoints of different steps: a shared file system that lags behind."""
    if len(steps := {record["step"] for record in ranks.gather({"step": step})}) > 1:
        raise UserError(f"{writer.folder}: ranks read checkpoints of different steps, {sorted(steps)}; run again")
