"""The profile stage: step time and memory of a run, measured apart from its training, with their definitions."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bench.data.sampler import Sampler
from bench.errors import BadInput
from bench.ranks import Ranks
from bench.record import Writer, write_json
from bench.train import Trainer, geometry_steps

if TYPE_CHECKING:
    from bench.data.scene import DataSource
    from bench.spec.schema import RunSpec

WARM_UP, WINDOW = 3, 10  # steps
GIB = 2**30
DEFINITIONS = {
    "step_time_ms": f"median wall time of {WINDOW} whole training steps (all losses, data ready) after {WARM_UP} "
    "warm-up steps; the device is synchronised at both ends of each",
    "host_peak_memory_gib": "peak resident memory of the process during the window (VmHWM, reset before it)",
    "allocated_peak_memory_gib": "torch.cuda.max_memory_allocated during the window",
    "reserved_peak_memory_gib": "torch.cuda.max_memory_reserved during the window",
    "device_memory_gib": "memory in use on the whole device after the window (cudaMemGetInfo)",
}


def profile(spec: RunSpec, writer: Writer, *, device: torch.device, source: DataSource, ranks: Ranks = Ranks()) -> None:
    """Commits profiles/<device>-<world>.json. No hook, trace or evaluation runs inside the window."""
    result = measure(spec, device=device, source=source, ranks=ranks, runs=writer.folder.parent)
    writer.commit(f"profiles/{device.type}-{ranks.world}.json", lambda path: write_json(path, result))


def measure(
    spec: RunSpec, *, device: torch.device, source: DataSource, ranks: Ranks = Ranks(), runs: Path | None = None
) -> dict[str, Any]:
    """The numbers, ready for JSON. Raises BadInput while shapes are being checked, which slows everything."""
    if any(type(finder).__module__.startswith("jaxtyping") for finder in sys.meta_path):
        raise BadInput("shape checking is on (jaxtyping's import hook): nothing measured now would be true")
    trainer = Trainer(spec, device, ranks, runs)
    sampler = Sampler(source, spec.views, spec.seed, spec.model.poses)
    step = geometry_steps(spec.train)  # the first with all losses
    batch = sampler.training(step, ranks.samples(spec.train.batch)).to(device)
    for _ in range(WARM_UP):
        trainer.step(step, batch)
    _reset_peaks(device)
    times = []
    for _ in range(WINDOW):
        _synchronise(device)
        started = time.perf_counter()
        trainer.step(step, batch)
        _synchronise(device)
        times.append((time.perf_counter() - started) * 1000)
    times.sort()
    return {
        "step_time_ms": times[len(times) // 2],
        "step_time_ms_p10": times[len(times) // 10],
        "step_time_ms_p90": times[-1 - len(times) // 10],
        "host_peak_memory_gib": _host_peak(),
        **_device_peaks(device),
        "batch": spec.train.batch,
        "micro_batch": spec.train.micro_batch,
        "warm_up_steps": WARM_UP,
        "window_steps": WINDOW,
        "threads": torch.get_num_threads(),
        "world": ranks.world,
        "device": device_name(device),
        "commit": commit(),
        "definitions": DEFINITIONS,
    }


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def commit() -> str | None:
    """The source's git commit, with "+" when files differ from it; None outside a repository."""
    here = Path(__file__).resolve().parent
    try:
        head, changed = (
            subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=True).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peaks(device: torch.device) -> None:
    """Start both peaks anew; without the right to reset VmHWM it covers the process's whole life."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _host_peak() -> float | None:
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    peaks = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(peaks[0]) * 1024 / GIB


def _device_peaks(device: torch.device) -> dict[str, float | None]:
    """Null on a CPU: an empty cell."""
    if device.type != "cuda":
        names = ("allocated_peak_memory_gib", "reserved_peak_memory_gib", "device_memory_gib")
        return dict.fromkeys(names)
    free, total = torch.cuda.mem_get_info(device)
    return {
        "allocated_peak_memory_gib": torch.cuda.max_memory_allocated(device) / GIB,
        "reserved_peak_memory_gib": torch.cuda.max_memory_reserved(device) / GIB,
        "device_memory_gib": (total - free) / GIB,
    }
