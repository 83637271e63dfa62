"""What tensors hold, by the events of torch's allocator: a profiler's, which slows what runs under it.

Not counted on a CPU is what does not come from torch's allocator: the batch and LPIPS's weights, which are NumPy's, and
what the C++ rasterizer takes while it runs.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiler

from bench.data.batch import Batch
from bench.training.sharding import local
from bench.training.trainer import Trainer

STATIC = "weights and optimizer"
OTHER = "other"
DEVICE_TYPES = {"cpu": 0, "cuda": 1}  # as traces number them


@dataclass(frozen=True)
class Change:
    """An allocation (positive) or what was freed, and the range in which its memory was allocated."""

    time_us: float
    size: int  # bytes
    part: str


def peak_allocated_bytes(trainer: Trainer, step: int, batch: Batch) -> int:
    """Of a training step, after an update without gradients has made the optimizer's state."""
    for parameter in trainer.model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    trainer.update(step, torch.zeros((), device=batch.targets.device))
    trainer.optimizer.zero_grad(set_to_none=True)  # the profiler does not see buffers freed that it did not see made
    return peak_allocated(lambda: trainer.step(step, batch), static_tensors(trainer), batch.targets.device)


def peak_allocated(compute: Callable[[], object], static: Iterable[Tensor], device: torch.device) -> int:
    """The most bytes that `compute` allocates, and `static`, which was there before; nothing else counts."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        compute()
        return nbytes(static) + torch.cuda.max_memory_allocated(device) - before
    with profiler(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        compute()
    sizes = [change.size for change in changes(chrome_trace(record)["traceEvents"], (), device)]
    return nbytes(static) + max(accumulate(sizes, initial=0))


def static_tensors(trainer: Trainer) -> list[Tensor]:
    """Of the model and the optimizer."""
    moments = [value for state in trainer.optimizer.state.values() for value in state.values()]
    return [*trainer.model.parameters(), *trainer.model.buffers(), *moments]


def nbytes(tensors: Iterable[Tensor]) -> int:
    """What this rank holds: of a sharded tensor its part."""
    return sum(local(tensor).untyped_storage().nbytes() for tensor in tensors)


def chrome_trace(record: profiler) -> dict[str, Any]:
    """What a finished profiler exports; "traceEvents" are its events."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        record.export_chrome_trace(str(path))
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def changes(events: Sequence[dict[str, Any]], ranges: Iterable[str], device: torch.device) -> list[Change]:
    """In order; what was allocated before the first event and is freed later is none. `ranges`: names of parts, of
    which the innermost at an allocation gets its memory; outside of all it is other's."""
    names = set(ranges)
    spans = sorted(
        (event["ts"], event["ts"] + event["dur"], event["name"])
        for event in events
        if event["name"] in names and event.get("ph") == "X" and not event.get("cat", "").startswith("gpu")
    )
    memory = sorted((event for event in events if event["name"] == "[memory]"), key=lambda event: event["ts"])
    live: dict[int, Change] = {}
    result = []
    for event in memory:
        arguments, now = event["args"], event["ts"]
        if int(arguments["Device Type"]) != DEVICE_TYPES[device.type]:
            continue
        size, address = int(arguments["Bytes"]), int(arguments["Addr"])
        if size > 0:
            part = next((name for start, end, name in reversed(spans) if start <= now <= end), OTHER)
            live[address] = Change(now, size, part)
            result.append(live[address])
        elif (allocated := live.pop(address, None)) is not None:
            result.append(Change(now, -allocated.size, allocated.part))
    return result


def by_part(changes: Sequence[Change], static: int, start_us: float, points: int = 400) -> dict[str, Any]:
    """Ready for JSON: bytes by part at the peak after `start_us`, and over time, thinned to some `points` moments."""
    held: dict[str, int] = defaultdict(int, {STATIC: static})
    moments: list[tuple[float, dict[str, int]]] = []
    for change in changes:
        held[change.part] += change.size
        if change.time_us >= start_us:
            moments.append((change.time_us, dict(held)))
    peak = max(moments, key=lambda moment: sum(moment[1].values()), default=(start_us, dict(held)))
    kept = moments[:: -(-len(moments) // points) or 1]
    kept = sorted([*kept, peak], key=lambda moment: moment[0])
    parts = [part for part in held if any(values.get(part) for _, values in kept)]
    return {
        "at_peak_bytes": {part: peak[1][part] for part in parts if peak[1].get(part)},
        "time_ms": [(time - start_us) / 1000 for time, _ in kept],
        "held_bytes": {part: [values.get(part, 0) for _, values in kept] for part in parts},
    }
