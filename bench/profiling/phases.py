"""The phases of the trainer's own step, timed where they begin and end, without a profiler."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from bench.data.batch import Batch
from bench.data.sampler import Sampler
from bench.training.optimizer import geometry_steps
from bench.training.trainer import Trainer
from models.phases import Recorder, recording

if TYPE_CHECKING:
    from bench.data.scene import DataSource

WARM_UP = 3  # steps
FEWEST, LONGEST_S = 2, 30  # of a window: steps, seconds
BACKWARD = ("losses backward", "rasterize backward", "head backward", "aggregator backward", "encoder backward")
OTHER = "other"
PHASES = ("encoder", "aggregator", "head", "rasterize", "losses", *BACKWARD, "exchange", "optimizer", "statistics",
          OTHER)  # fmt: skip
DEFINITION = (
    "median over steps of each phase of Trainer.step with all losses, between CUDA events on a GPU and by the clock on "
    "a CPU; a phase's backward pass begins when the gradient of its result is complete, and ends where that of the "
    "phase before it begins; statistics: of the output, every tenth step, their mean; other: outside of all phases; no "
    "profiler is active"
)


class PhaseRecorder(Recorder):
    """Marks each border of a step's phases: a CUDA event, on a CPU the clock."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._active: list[str] = []
        self._marks: list[tuple[str, float | torch.cuda.Event]] = []

    def enter(self, name: str) -> None:
        """Until `leave`, time belongs to the phase; a backward pass starts with that of the losses."""
        self._active.append(BACKWARD[0] if name == "backward" else name)
        self.mark()

    def leave(self) -> None:
        self._active.pop()
        self.mark()

    def reach_backward(self, name: str) -> None:
        """Parts are reached in the reverse of their order; tensors that a later part reads again do not count."""
        reached = f"{name} backward"
        if self._active and PHASES.index(reached) > PHASES.index(self._active[-1]):
            self._active[-1] = reached
            self.mark()

    def mark(self) -> None:
        """What follows belongs to the innermost phase."""
        now: float | torch.cuda.Event = time.perf_counter()
        if self.device.type == "cuda":
            now = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            now.record()
        self._marks.append((self._active[-1] if self._active else OTHER, now))

    def times_ms(self) -> dict[str, float]:
        """Milliseconds by phase, from the first mark to the last. Waits for a GPU."""
        synchronize(self.device)
        times: dict[str, float] = defaultdict(float)
        for (name, start), (_, end) in pairwise(self._marks):
            times[name] += _elapsed_ms(start, end)
        return {name: times[name] for name in PHASES}


@dataclass(frozen=True)
class StepTimes:
    """Of steps that alternate: plain ones, and those whose phases are recorded."""

    plain_ms: list[float]
    recorded_ms: list[float]
    phases: list[dict[str, float]]  # of each recorded step

    def overhead(self) -> float:
        """How much longer recorded steps take, as a share of plain ones: the median over neighboring pairs."""
        pairs = zip(self.plain_ms, self.recorded_ms, strict=True)
        return statistics.median(recorded / plain - 1 for plain, recorded in pairs)

    def phases_ms(self) -> dict[str, float]:
        """{phase: milliseconds} of a step, see DEFINITION."""
        times = {name: [step[name] for step in self.phases] for name in PHASES}
        return {
            name: statistics.fmean(values) if name == "statistics" else statistics.median(values)
            for name, values in times.items()
        }


def step_times(trainer: Trainer, batch: Batch, first: int, steps: int, longest_s: float = LONGEST_S) -> StepTimes:
    """`steps` plain and as many recorded training steps from step `first` on, alternating, on one batch; fewer of both,
    at least FEWEST, where all would take longer than `longest_s`."""
    device, started = batch.targets.device, time.monotonic()
    times = StepTimes([], [], [])
    for step in range(first, first + steps):
        late = time.monotonic() - started > longest_s
        if trainer.ranks.any(late and len(times.plain_ms) >= FEWEST):
            break
        times.plain_ms.append(timed_step(trainer, step, batch))
        recorder = PhaseRecorder(device)
        with recording(recorder):
            times.recorded_ms.append(timed_step(trainer, step, batch, recorder))
        times.phases.append(recorder.times_ms())
    return times


def timed_step(trainer: Trainer, step: int, batch: Batch, recorder: PhaseRecorder | None = None) -> float:
    """Milliseconds of a step, the device synchronized around it."""
    device = batch.targets.device
    synchronize(device)
    started = time.perf_counter()
    if recorder:
        recorder.mark()
    trainer.step(step, batch)
    if recorder:
        recorder.mark()
    synchronize(device)
    return (time.perf_counter() - started) * 1000


def time_by_phase(trainer: Trainer, source: DataSource, steps: int) -> StepTimes:
    """After WARM_UP steps, on the first batch with all losses."""
    spec, device = trainer.spec, next(trainer.model.parameters()).device
    first = geometry_steps(spec.train)
    sampler = Sampler(source, spec.views, spec.seed, spec.model.known)
    batch = sampler.training(first, trainer.ranks.samples(spec.train.batch)).to(device)
    for step in range(first, first + WARM_UP):
        trainer.step(step, batch)
    return step_times(trainer, batch, first + WARM_UP, steps)


def synchronize(device: torch.device) -> None:
    """Wait for a GPU; does nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _elapsed_ms(start: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
    if isinstance(start, float) and isinstance(end, float):
        return (end - start) * 1000
    assert isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event)
    return float(start.elapsed_time(end))
