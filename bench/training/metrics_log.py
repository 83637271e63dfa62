"""Every step's record and its warnings.

Values are read one step late, so that reading never stalls a device, and written at most ten times a second, which
spares shared file systems.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bench import outputs
from bench.data.batch import Batch
from bench.runs.lease import LeaseLost
from bench.runs.writer import Writer
from bench.training import diagnostics
from bench.training.diagnostics import NonFinite
from bench.training.sharding import is_model_sharded
from models.ead import EAD

log = logging.getLogger(__name__)
INTERVAL_S = 0.1  # between writes


@dataclass
class Stopwatch:
    """Wall time between laps."""

    last: float

    @classmethod
    def started(cls) -> Stopwatch:
        return cls(time.perf_counter())

    def lap_ms(self) -> float:
        """Since the last lap."""
        now = time.perf_counter()
        elapsed_ms, self.last = (now - self.last) * 1000, now
        return elapsed_ms


@dataclass
class StepRecord:
    """A step, counted from 1, whose values the device may still be computing."""

    step: int
    values: dict[str, Tensor]
    numbers: dict[str, float]
    scenes: tuple[str, ...]  # ids alone: the batch would stay on the device while the next step computes

    def read(self) -> dict[str, float]:
        """Waits for the device, once."""
        values = torch.stack([value.float() for value in self.values.values()]).tolist()
        return {**dict(zip(self.values, values, strict=True)), **self.numbers}


class MetricsLog:
    """Writes metrics.jsonl, one line a step; `warnings` holds each kind of warning once.

    `batch_of` reads the batch of a step, counted from 1, again: to find where values stopped being finite.
    """

    def __init__(
        self, writer: Writer | None, model: EAD, warnings: dict[str, str], batch_of: Callable[[int], Batch]
    ) -> None:
        self.writer, self.model, self.warnings, self.batch_of = writer, model, warnings, batch_of
        self.limits = outputs.of_kind(model.spec.output.kind).limits
        self.pending: StepRecord | None = None
        self.lines: list[dict[str, float]] = []  # read, and not yet written
        self.next_write = 0.0

    def __enter__(self) -> None:
        """A block of steps: what was read before one of them fails is written."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if not isinstance(error, LeaseLost):  # the run is another process's then
            self.write()

    def log_deferred(self, entry: StepRecord) -> None:
        """Hold a step until the next flush."""
        self.flush()
        self.pending = entry

    def flush(self) -> None:
        """Read the pending step, and write if it is time. Raises NonFinite; the weights are then those before that
        step."""
        entry, self.pending = self.pending, None
        if entry is None:
            return
        record = entry.read()
        if bad := diagnostics.first_nonfinite_value(record):
            scenes = ", ".join(entry.scenes[:4])
            first = "not searched for in sharded weights"
            if not is_model_sharded(self.model):  # ranks may find different modules, and would wait for each other
                first = diagnostics.first_nonfinite_module(self.model, self.batch_of(entry.step))
            raise NonFinite(f"step {entry.step}: {bad} is not finite; first non-finite: {first} (scenes {scenes} …)")
        for key, text in diagnostics.warnings(record, entry.step, self.limits).items():
            if key not in self.warnings:
                self.warnings[key] = text
                log.warning(text)
        self.lines.append({"step": entry.step, **record})
        if time.monotonic() >= self.next_write:
            self.write()

    def write(self) -> None:
        """Write all steps that were read."""
        if self.writer and self.lines:
            self.writer.append("metrics.jsonl", *self.lines)
        self.lines, self.next_write = [], time.monotonic() + INTERVAL_S
