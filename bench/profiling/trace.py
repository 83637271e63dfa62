"""The trace stage, for runs with `profile.trace: true`: time by part, and a profiler's trace.

traces/<device>-<world>.json                   time by phase (bench/profiling/phases.py), for the figure
traces/<device>-<world>/NAME.pt.trace.json.gz  a torch.profiler trace, for TensorBoard's profiler plugin or Perfetto

Both are recorded after the profile stage and separately: a profiler slows small steps several times.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.profiler import ProfilerActivity, schedule
from torch.profiler import profile as profiler

from bench.common.environment import device_name
from bench.common.json_files import write_json
from bench.data.batch import Batch
from bench.data.sampler import Sampler
from bench.profiling.phases import DEFINITION, synchronize, time_by_phase
from bench.profiling.step_profile import load_trained, require_clean_timing
from bench.runs.writer import Writer
from bench.runtime import provenance
from bench.runtime.distributed import SINGLE_PROCESS, DistributedContext
from bench.training.optimizer import geometry_steps
from bench.training.trainer import Trainer

if TYPE_CHECKING:
    from bench.config.schema import RunSpec
    from bench.data.scene import DataSource

TIMED, WARM_UP, TRACED = 10, 2, 3  # steps
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
    content = {
        "parts_ms": parts,
        "step_ms": sum(parts.values()),
        "overhead": times.overhead(),
        "steps": TIMED,
        "definition": DEFINITION,
        "traced_steps": TRACED,
        "ranges": RANGES,
        "batch": spec.train.batch,
        "micro_batch": spec.train.micro_batch,
        "weights": "trained" if trained else "initial",
        "threads": torch.get_num_threads(),
        "device": device_name(device),
        "provenance": started,
    }
    record = _record(trainer, batch, first, device)
    if ranks.is_first:
        writer.commit(f"traces/{name}", lambda folder: _export(record, folder, name))
        writer.commit(f"traces/{name}.json", lambda path: write_json(path, content))


def _record(trainer: Trainer, batch: Batch, first: int, device: torch.device) -> profiler:
    """Training steps with all losses under the profiler, after some warm-up steps."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    plan = schedule(wait=0, warmup=WARM_UP, active=TRACED, repeat=1)
    record = profiler(activities=activities, schedule=plan, record_shapes=True)
    with record:
        for step in range(first, first + WARM_UP + TRACED):
            trainer.step(step, batch)
            synchronize(device)
            record.step()
    return record


def _export(record: profiler, folder: Path, worker: str) -> None:
    """Under the file name that TensorBoard's profiler plugin expects; the folder is a run of TensorBoard's.

    The plugin's operator view omits ranges of `record_function` (category user_annotation, torch-tb-profiler 0.4.3,
    node.py), so RANGES get the category of operators, cpu_op: then the view sums their time and that of their children.
    """
    folder.mkdir()
    plain = folder / "trace.json"
    record.export_chrome_trace(str(plain))
    content = json.loads(plain.read_text(encoding="utf-8"))
    for event in content["traceEvents"]:
        if event.get("cat") == "user_annotation" and event["name"] in RANGES:
            event["cat"] = "cpu_op"
    with gzip.open(folder / f"{worker}.pt.trace.json.gz", "wt", encoding="utf-8") as file:
        json.dump(content, file)
    plain.unlink()
