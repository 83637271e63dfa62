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

from bench import checkpoint, health, initialise, numerics, optimiser, provenance, scenes
from bench.data.batch import Batch
from bench.data.sampler import Sampler, batches
from bench.errors import BadInput
from bench.journal import Entry, Journal, Stopwatch
from bench.losses import LossSpec, Prediction, Term
from bench.ranks import ALONE, Ranks
from bench.record import BEST, RunFolder, Writer, read_lines, write_json
from bench.rendering import render
from bench.spec.code import code
from bench.validate import Best
from models import weights
from models.ead import EAD

if TYPE_CHECKING:
    from bench.data.scene import DataSource
    from bench.spec.schema import RunSpec


SESSIONS = "sessions.jsonl"  # the provenance of each session of a training that is not finished


class Stopped(Exception):
    """Training was asked to stop and has written a checkpoint."""


def train(
    spec: RunSpec,
    writer: Writer,
    *,
    device: torch.device,
    source: DataSource,
    ranks: Ranks = ALONE,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train to the end, once; without steps the given weights are the model's. Raises NonFinite, Stopped, BadInput."""
    if RunFolder(writer.folder).training() is not None:
        clear(writer)
    elif spec.train.steps:
        steps(spec, writer, device, source, ranks, stop)
    elif ranks.first:
        numerics.configure(device, spec.train.matmul_precision, spec.seed)
        adopt(spec, writer, source, device)


def steps(
    spec: RunSpec, writer: Writer, device: torch.device, source: DataSource, ranks: Ranks, stop: Callable[[], bool]
) -> None:
    """The loop, from the newest checkpoint if there is one, to the last step."""
    started = time.perf_counter()
    sampler = Sampler(source, spec.views, spec.seed, spec.model.poses)
    files = code(spec)
    if ranks.first:
        scenes.settle(spec, source, writer)
    trainer = Trainer(spec, device, ranks, runs=writer.folder.parent)
    session = provenance.of_stage(spec, device)
    done, warnings = checkpoint.restore(writer.folder, trainer.model, trainer.optimiser)
    if len(steps_done := {said["done"] for said in ranks.gather({"done": done})}) > 1:
        raise BadInput(f"{writer.folder}: ranks see checkpoints of different steps, {sorted(steps_done)}: try again")
    samples = ranks.samples(spec.train.batch)
    if ranks.first:
        writer.append(SESSIONS, {"from_step": done, **session})
    journal = Journal(writer if ranks.first else None, trainer.model, warnings,
                      lambda step: sampler.training(step - 1, samples).to(device))  # fmt: skip
    best = Best(spec, sampler, writer)

    left = range(done, spec.train.steps)
    clock = Stopwatch.started()
    for step, batch in zip(left, batches(sampler, left, samples), strict=True):
        data_wait_ms = clock.lap_ms()
        batch = batch.to(device)
        values = trainer.step(step, batch)
        journal.settle()  # the step before this one
        numbers = {
            "learning_rate": optimiser.learning_rate(step, spec.train),
            "data_wait_ms": data_wait_ms,
            "step_time_ms": data_wait_ms + clock.lap_ms(),
        }
        if ranks.first:
            numbers |= best.look(step + 1, trainer.model)
        journal.note(Entry(step + 1, values, numbers, batch.scenes))

        last, stopping = step + 1 == spec.train.steps, ranks.any(stop())
        if last or stopping or (step + 1) % spec.train.checkpoint_every == 0:
            journal.settle()
            if ranks.first:
                scenes.note_broken(writer, sampler)
                checkpoint.save(writer, step + 1, trainer.model, trainer.optimiser, warnings)
        if stopping and not last:
            raise Stopped(f"stopped after step {step + 1} of {spec.train.steps}; a checkpoint is written")
        clock.lap_ms()

    if ranks.first:
        summary = {"warnings": list(warnings.values()), "last_session_s": time.perf_counter() - started, "code": files}
        finish(writer, trainer, summary | {"provenance": session | {"sessions": sessions(writer.folder)}})


class Trainer:
    """Model, optimiser and loss terms of one run, and what one step does with them."""

    def __init__(self, spec: RunSpec, device: torch.device, ranks: Ranks = ALONE, runs: Path | None = None) -> None:
        numerics.configure(device, spec.train.matmul_precision, spec.seed)
        self.spec, self.ranks = spec, ranks
        self.model: EAD = initialise.build(spec, runs).to(device).train()
        self.forward = torch.compile(self.model) if spec.train.compile else self.model
        self.optimiser = optimiser.build(self.model, spec.train)
        self.losses = {name: loss for name, loss in spec.losses.items() if isinstance(loss, LossSpec) and loss.weight}
        self.terms: Mapping[str, Term] = {name: loss.build(device) for name, loss in self.losses.items()}
        self.scale_max = float(getattr(spec.model.output, "scale_max", "inf"))

    def step(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """Forward, backward, update: step 0, 1, … on this rank's scenes. Gives what is to be recorded, unread."""
        for group in self.optimiser.param_groups:
            group["lr"] = optimiser.learning_rate(step, self.spec.train)
        self.optimiser.zero_grad(set_to_none=True)
        values = self.ranks.reduce(self.accumulate(step, batch))
        self.ranks.reduce_gradients(self.model)
        norms = health.gradient_norms(self.model)
        norm = torch.linalg.vector_norm(torch.stack(list(norms.values())))
        with record_function("optimizer"):
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self.spec.train.gradient_clip, norm)
            self.optimiser.update(norm)
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
        if step % health.EVERY == 0:
            found = health.look(prediction.gaussians, batch, self.scale_max)
            values |= {name: value / scenes for name, value in found.items()}
        return values

    def predict(self, step: int, batch: Batch) -> Prediction:
        """Gaussians of the inputs; rendered in the target cameras, unless L_3D still trains alone."""
        gaussians = self.forward(batch.inputs)
        if step < optimiser.geometry_steps(self.spec.train):
            return Prediction(gaussians, None)
        with record_function("rasterise"):
            rendering = render(gaussians, batch.target_cameras, batch.background)
        return Prediction(gaussians, rendering)


def adopt(spec: RunSpec, writer: Writer, source: DataSource, device: torch.device) -> None:
    """Without a step of training, what `init` gives is the run's model. Raises BadInput.

    A model that a run has trained is not evaluated on the scenes that it was trained on.
    """
    evaluation = scenes.settle(spec, source, writer)["evaluation"]
    if seen := initialise.trained_scenes(spec, writer.folder.parent) & set(evaluation):
        raise BadInput(f"data: the given weights were trained on {len(seen)} of these scenes, {min(seen)} among them")
    content = {"steps": 0, "warnings": [], "code": code(spec), "provenance": provenance.of_stage(spec, device)}
    _commit(writer, initialise.build(spec, writer.folder.parent), content)


def finish(writer: Writer, trainer: Trainer, summary: Mapping[str, Any]) -> None:
    """What there is to say of a training that has come to its end; then checkpoints and optimiser state go."""
    folder = RunFolder(writer.folder)
    best, steps = folder.best(), folder.metrics()
    if best:
        weights.fill(trainer.model, load_file(folder.path / BEST / weights.WEIGHTS_FILE), source=BEST)
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
    clear(writer)


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


def clear(writer: Writer) -> None:
    """What only unfinished training needs."""
    checkpoint.remove(writer)
    writer.remove(SESSIONS)
    writer.remove(BEST)


def _commit(writer: Writer, model: EAD, content: Mapping[str, Any]) -> None:
    """The weights, then train.json, which says that the stage is done."""
    writer.commit(weights.SPEC_FILE, lambda path: weights.save_spec(model, path))
    writer.commit(weights.WEIGHTS_FILE, lambda path: weights.save_weights(model, path))
    writer.commit("train.json", lambda path: write_json(path, content))
