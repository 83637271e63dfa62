"""The trace stage, for runs with `profile.trace: true`: time and memory by part, and a profiler's trace.

traces/<device>-<world>.json                   time by phase (bench/profiling/phases.py); memory by part and the longest
                                               operators of a step, from the trace: for the figures
traces/<device>-<world>/NAME.pt.trace.json.gz  a torch.profiler trace, for TensorBoard's profiler plugin or Perfetto
traces/<device>-<world>/memory_snapshot.pickle on one GPU: every allocation of a step with its stack, for
                                               https://docs.pytorch.org/memory_viz

They are recorded after the profile stage and separately: a profiler slows small steps several times.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.profiler_util import FunctionEventAvg
from torch.profiler import DeviceType, ProfilerActivity, schedule
from torch.profiler import profile as profiler

from bench.common import compat
from bench.common.environment import device_name
from bench.common.json_files import write_json
from bench.config.schema import cost_switches
from bench.data.batch import Batch
from bench.data.sampler import Sampler
from bench.profiling import allocator_events
from bench.profiling.phases import DEFINITION, synchronize, time_by_phase
from bench.profiling.step_profile import load_trained, require_clean_timing
from bench.runs.writer import Writer
from bench.runtime import provenance
from bench.runtime.distributed import SINGLE_PROCESS, DistributedContext
from bench.training.optimizer import geometry_steps
from bench.training.trainer import Trainer
from models.phases import phase

if TYPE_CHECKING:
    from bench.config.schema import RunSpec
    from bench.data.scene import DataSource

TIMED, WARM_UP, TRACED = 10, 2, 3  # steps
STEP = "step"  # the range of a whole traced step
OPERATORS = 12  # the longest ones
RANGES = ("encoder", "aggregator", "head", "rasterize", "losses", "backward", "exchange", "optimizer")  # in every trace


def trace(
    spec: RunSpec,
    writer: Writer,
    *,
    device: torch.device,
    source: DataSource,
    ranks: DistributedContext = SINGLE_PROCESS,
) -> None:
    """Write the trace, then the JSON, whose presence marks the stage as complete. Raises UserError."""
    require_clean_timing()
    trainer = Trainer(spec, device, ranks, writer.folder.parent)
    started = provenance.of_stage(spec.model.precision, device)
    trained = load_trained(trainer, writer.folder)
    times = time_by_phase(trainer, source, TIMED)
    parts = times.phases_ms()
    sampler, first = Sampler(source, spec.views, spec.seed, spec.model.known), geometry_steps(spec.train)
    batch = sampler.training(first, ranks.samples(spec.train.batch)).to(device)
    name = f"{device.type}-{ranks.world_size}"
    content: dict[str, Any] = {
        "parts_ms": parts,
        "step_ms": sum(parts.values()),
        "overhead": times.overhead(),
        "steps": TIMED,
        "definition": DEFINITION,
        "traced_steps": TRACED,
        "ranges": RANGES,
        "batch": spec.train.batch,
        "micro_batch": spec.train.micro_batch,
        "switches": cost_switches(spec.train),
        "weights": "trained" if trained else "initial",
        "threads": torch.get_num_threads(),
        "device": device_name(device),
        "provenance": started,
    }
    record = _record(trainer, batch, first, device)
    exported = allocator_events.chrome_trace(record)
    content["memory"] = _memory(trainer, exported["traceEvents"], device)
    content["operators"] = longest_operators(record.key_averages(), device)
    if ranks.is_first:
        writer.commit(f"traces/{name}", lambda folder: _write(exported, trainer, batch, folder, name))
        writer.commit(f"traces/{name}.json", lambda path: write_json(path, content))


def _record(trainer: Trainer, batch: Batch, first: int, device: torch.device) -> profiler:
    """Training steps with all losses under the profiler, after some warm-up steps."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    plan = schedule(wait=0, warmup=WARM_UP, active=TRACED, repeat=1)
    record = profiler(activities=activities, schedule=plan, record_shapes=True, profile_memory=True)
    with record:
        for step in range(first, first + WARM_UP + TRACED):
            with phase(STEP):
                trainer.step(step, batch)
                synchronize(device)
            record.step()
    return record


def _memory(trainer: Trainer, events: list[dict[str, Any]], device: torch.device) -> dict[str, Any]:
    """Of the last traced step, by the part whose forward pass, or whose range, allocated it."""
    changes = allocator_events.changes(events, RANGES, device)
    start = max(event["ts"] for event in events if event["name"] == STEP and event.get("cat") == "user_annotation")
    static = allocator_events.nbytes(allocator_events.static_tensors(trainer))
    return {
        **allocator_events.by_part(changes, static, start),
        "definition": "bytes that tensors hold during the last traced step, by the range in which they were allocated "
        "(gradients: backward); times are those under the profiler",
    }


def longest_operators(averages: Iterable[FunctionEventAvg], device: torch.device) -> list[dict[str, Any]]:
    """Those of a traced step: on a GPU its kernels, on a CPU operators without the time of those inside.

    On a GPU the averages also hold the operators that launch the kernels, with the same time.
    """
    kind, field = DeviceType.CPU, "self_cpu_time_total"
    if device.type == "cuda":
        kind, field = DeviceType.CUDA, "self_device_time_total"
    averages = [entry for entry in averages if entry.device_type == kind and not entry.is_user_annotation]
    longest = sorted(averages, key=lambda entry: -getattr(entry, field))[:OPERATORS]
    total = sum(getattr(entry, field) for entry in averages)
    return [
        {"name": entry.key, "calls": entry.count / TRACED, "ms": getattr(entry, field) / TRACED / 1000,
         "share": getattr(entry, field) / total}
        for entry in longest
    ]  # fmt: skip


def _write(exported: dict[str, Any], trainer: Trainer, batch: Batch, folder: Path, worker: str) -> None:
    folder.mkdir()
    _export(exported, folder / f"{worker}.pt.trace.json.gz")
    if batch.targets.is_cuda and trainer.ranks.world_size == 1:  # others would wait for the exchange
        with compat.memory_snapshot(folder / "memory_snapshot.pickle"):
            trainer.step(geometry_steps(trainer.spec.train), batch)


def _export(exported: dict[str, Any], path: Path) -> None:
    """Under the file name that TensorBoard's profiler plugin expects; the folder is a run of TensorBoard's.

    The plugin's operator view omits ranges of `record_function` (category user_annotation, torch-tb-profiler 0.4.3,
    node.py), so RANGES get the category of operators, cpu_op: then the view sums their time and that of their children.
    """
    for event in exported["traceEvents"]:
        if event.get("cat") == "user_annotation" and event["name"] in RANGES:
            event["cat"] = "cpu_op"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        json.dump(exported, file)
