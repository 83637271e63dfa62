"""What tensors hold at most in a step on a CPU: the allocator's events of a profiler, which slows the step."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiler

from bench.data.batch import Batch
from bench.training.trainer import Trainer


def peak_allocated_bytes(trainer: Trainer, step: int, batch: Batch) -> int:
    """Of a training step after another has made the optimizer's state: weights and that state, and the largest sum of
    the step's allocations and frees. Not counted are what does not come from torch's allocator: the batch and LPIPS's
    weights, which are NumPy's, and what the C++ rasterizer takes while it runs."""
    trainer.step(step, batch)
    trainer.optimizer.zero_grad(set_to_none=True)  # the profiler does not see buffers freed that it did not see made
    static = sum(tensor.untyped_storage().nbytes() for tensor in _static(trainer))
    with profiler(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        trainer.step(step, batch)
    held = peak = 0
    for change in _changes(record):
        held += change
        peak = max(peak, held)
    return static + peak


def _static(trainer: Trainer) -> list[Tensor]:
    """Of the model and the optimizer."""
    moments = [value for state in trainer.optimizer.state.values() for value in state.values()]
    return [*trainer.model.parameters(), *trainer.model.buffers(), *moments]


def _changes(record: profiler) -> list[int]:
    """Bytes allocated (positive) and freed, in order."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        record.export_chrome_trace(str(path))
        events: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    memory = sorted((event for event in events if event["name"] == "[memory]"), key=lambda event: event["ts"])
    return [int(event["args"]["Bytes"]) for event in memory]
