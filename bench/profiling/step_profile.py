"""The profile stage: step time and memory of a run, measured separately from its training, with their definitions."""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from bench.common.compat import profiler_enabled
from bench.common.environment import device_name
from bench.common.errors import UserError
from bench.common.json_files import write_json
from bench.config.schema import cost_switches
from bench.data.batch import Batch
from bench.data.sampler import Sampler
from bench.profiling import flops, inference, phases, utilization
from bench.profiling.allocator_events import peak_allocated_bytes
from bench.profiling.estimate.fake_step import dearest_step
from bench.profiling.estimate.of_profile import estimate_of_profile
from bench.runs.folder import RunFolder
from bench.runs.writer import Writer
from bench.runtime import provenance
from bench.runtime.distributed import SINGLE_PROCESS, DistributedContext
from bench.training.optimizer import geometry_steps
from bench.training.sharding import load_whole, whole_model
from bench.training.trainer import Trainer
from models.ead import EAD
from models.weights import WEIGHTS_FILE

if TYPE_CHECKING:
    from bench.config.schema import RunSpec
    from bench.data.scene import DataSource

WARM_UP, WINDOW = 3, 10  # steps
GIB = 2**30
DEFINITIONS = {
    "step_time_ms": f"median wall time of {WINDOW} whole training steps (fewer where a step takes long: window_steps) "
    f"with all losses after {WARM_UP} warm-up steps, on one batch that is already on the device; the device is "
    "synchronized around each; also their percentiles 10, 90 and 99, the last of them the longest step",
    "phases_ms": f"{phases.DEFINITION}; of as many steps more, between those of the window",
    "other_share": "of phases_ms, of all",
    "phases_overhead": "by how much steps whose phases were measured took longer, of neighbors in the window; median",
    "data_wait_share": "of the training's time, waiting for data; nothing without a finished training",
    **utilization.DEFINITIONS,
    **inference.DEFINITIONS,
    "host_peak_memory_gib": "peak resident memory of the process during the window (VmHWM, reset before it)",
    "allocated_peak_memory_gib": "torch.cuda.max_memory_allocated during the window; on a CPU the most that "
    "tensors hold in a step after it, by a profiler's allocator events",
    "reserved_peak_memory_gib": "torch.cuda.max_memory_reserved during the window",
    "estimate": "what --estimate gives for this spec, device and number of processes",
    "forward_gflop": flops.DEFINITION,
    "switches": "of the spec: what decides a step's cost and not what it computes (docs/cost.md)",
    "ranks": "the values of each rank; those above are the maxima",
    "load_average": "of the machine when the warm-up began, over one minute: processes that run or wait for a core",
    "device_memory_gib": "memory in use on the whole device after the window, by any process (cudaMemGetInfo)",
}


def profile(
    spec: RunSpec,
    writer: Writer,
    *,
    device: torch.device,
    source: DataSource,
    ranks: DistributedContext = SINGLE_PROCESS,
) -> None:
    """Write profiles/<device>-<world>.json. Raises UserError.

    Steps of the window alternate with ones whose phases are recorded, which do not count in step_time_ms; no trace or
    evaluation runs in between.
    """
    result = measure(spec, device=device, source=source, ranks=ranks, folder=writer.folder)
    if ranks.is_first:
        writer.commit(f"profiles/{device.type}-{ranks.world_size}.json", lambda path: write_json(path, result))


def measure(
    spec: RunSpec,
    *,
    device: torch.device,
    source: DataSource,
    ranks: DistributedContext = SINGLE_PROCESS,
    folder: Path | None = None,
) -> dict[str, Any]:
    """The profile, ready for JSON, with the trained weights of a run's `folder` if it has any.

    What the first rank alone measures after the window, others' lack: phases, utilization, inference, the estimate.
    Raises UserError while shape checks or a profiler are active, which slow everything.
    """
    require_clean_timing()
    trainer = Trainer(spec, device, ranks, folder.parent if folder else None)
    started = provenance.of_stage(spec.model.precision, device)
    trained = load_trained(trainer, folder)
    sampler = Sampler(source, spec.views, spec.seed, spec.model.known)
    first = geometry_steps(spec.train)  # the first step with all losses
    batch = sampler.training(first, ranks.samples(spec.train.batch)).to(device)
    load_average = os.getloadavg()[0]
    for step in range(first, first + WARM_UP):
        trainer.step(step, batch)
    phases.synchronize(device)
    _reset_peaks(device)
    times = phases.step_times(trainer, batch, first + WARM_UP, WINDOW)
    own = _of_rank(times, device)
    if device.type == "cpu":
        own["allocated_peak_memory_gib"] = peak_allocated_bytes(trainer, dearest_step(spec), batch) / GIB
    by_rank = ranks.gather(own)
    largest = {name: max((rank[name] for rank in by_rank if rank[name] is not None), default=None) for name in own}
    model = whole_model(trainer.model, ranks.is_first).to(device)  # every rank takes part
    return {
        **largest,
        **(_of_first_rank(trainer, model, times, largest, batch) if ranks.is_first else {}),
        "data_wait_share": ((RunFolder(folder).training() if folder else None) or {}).get("data_wait_share"),
        "ranks": by_rank,
        "batch": spec.train.batch,
        "micro_batch": spec.train.micro_batch,
        "switches": cost_switches(spec.train),
        "warm_up_steps": WARM_UP,
        "window_steps": len(times.plain_ms),
        "load_average": load_average,
        "weights": "trained" if trained else "initial",
        "threads": torch.get_num_threads(),
        "world": ranks.world_size,
        "device": device_name(device),
        "provenance": started,
        "definitions": DEFINITIONS,
    }


def _of_rank(times: phases.StepTimes, device: torch.device) -> dict[str, float | None]:
    """What each rank measures of the window."""
    ordered = sorted(times.plain_ms)
    return {
        "step_time_ms": statistics.median(ordered),
        "step_time_ms_p10": ordered[len(ordered) // 10],
        "step_time_ms_p90": ordered[-1 - len(ordered) // 10],
        "step_time_ms_p99": ordered[-1 - len(ordered) // 100],
        "host_peak_memory_gib": _host_peak_gib(),
        **_device_peaks(device),
    }


def _of_first_rank(
    trainer: Trainer, model: EAD, times: phases.StepTimes, largest: Mapping[str, float | None], batch: Batch
) -> dict[str, Any]:
    """Where its step went, how well it used the device, inference with the whole model, and what was estimated.

    `largest`: of all ranks' values.
    """
    spec, device, world_size = trainer.spec, batch.targets.device, trainer.ranks.world_size
    step_ms, by_phase = largest["step_time_ms"], times.phases_ms()
    assert step_ms is not None
    gflop = flops.forward_gflop(model, batch.scenes_at(0, 1).inputs)
    return {
        "phases_ms": by_phase,
        "other_share": by_phase[phases.OTHER] / sum(by_phase.values()),
        "phases_overhead": times.overhead(),
        "forward_gflop": gflop,
        **utilization.utilization(spec, device, world_size, step_ms, by_phase, gflop),
        "inference": inference.measure_inference(model, batch),
        "estimate": estimate_of_profile(spec, device, world_size),
    }


def require_clean_timing() -> None:
    """Raises UserError under jaxtyping's import hook and inside a profiler."""
    if any(type(finder).__module__.startswith("jaxtyping") for finder in sys.meta_path):
        raise UserError("jaxtyping checks are on; disable them before timing")
    if profiler_enabled():
        raise UserError("a torch profiler is active; stop it before timing")


def load_trained(trainer: Trainer, folder: Path | None) -> bool:
    """Load a run's weights, if it has any; whether it has.

    The positions of the Gaussians decide the cost of rendering: at initialization they are concentrated in the center.
    """
    if folder is None or not (path := folder / WEIGHTS_FILE).is_file():
        return False
    load_whole(trainer.model, load_file(path), source=str(path))
    return True


def _reset_peaks(device: torch.device) -> None:
    """Reset both peaks; where VmHWM cannot be reset it covers the whole process."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _host_peak_gib() -> float | None:
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    peaks = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(peaks[0]) * 1024 / GIB


def _device_peaks(device: torch.device) -> dict[str, float | None]:
    """GiB; None on a CPU."""
    if device.type != "cuda":
        names = ("allocated_peak_memory_gib", "reserved_peak_memory_gib", "device_memory_gib")
        return dict.fromkeys(names)
    free, total = torch.cuda.mem_get_info(device)
    return {
        "allocated_peak_memory_gib": torch.cuda.max_memory_allocated(device) / GIB,
        "reserved_peak_memory_gib": torch.cuda.max_memory_reserved(device) / GIB,
        "device_memory_gib": (total - free) / GIB,
    }
