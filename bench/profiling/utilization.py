"""How well a step uses the device: operations of the model over time, against matrix products measured beside it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from bench.profiling.phases import synchronize

if TYPE_CHECKING:
    from bench.config.schema import RunSpec

SIZE = {"cuda": 8192, "cpu": 1024}  # rows of the square matrices
REPEATS = 6
MODEL = tuple(f"{part}{suffix}" for part in ("encoder", "aggregator", "head") for suffix in ("", " backward"))
DEFINITIONS = {
    "scenes_per_s": "scenes of a step, of all ranks, over step_time_ms",
    "tflops": "10¹² operations a second of a rank: three times those of E, A, D and the output's forward pass "
    "(forward_gflop), for forward and backward passes, over step_time_ms; neither recomputation nor LPIPS is counted",
    "matmul_tflops": f"of products of square matrices ({SIZE['cuda']} rows on a GPU, {SIZE['cpu']} on a CPU) in "
    f"`matmul_dtype`, A's, the best of {REPEATS}, measured after the window by one rank",
    "mfu": "tflops ÷ matmul_tflops, of the whole step",
    "mfu_model": "the same over the phases of E, A and D and their backward passes alone",
}


def matmul_tflops(spec: RunSpec, device: torch.device) -> tuple[float, str]:
    """(10¹² operations a second, dtype), at the spec's precision of A."""
    size = SIZE[device.type]
    dtype = torch.bfloat16 if spec.model.precision.aggregator == "bf16" else torch.float32
    a, b = (torch.rand(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(REPEATS):
        synchronize(device)
        started = time.perf_counter()
        a @ b
        synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best / 1e12, str(dtype).removeprefix("torch.")


def utilization(
    spec: RunSpec, device: torch.device, world: int, step_ms: float, phases_ms: Mapping[str, float], gflop: float
) -> dict[str, float | str]:
    """Ready for JSON; see DEFINITIONS. `gflop`: 10⁹ operations of one scene's forward pass."""
    peak, dtype = matmul_tflops(spec, device)
    tflop = 3 * gflop * spec.train.batch / world / 1000
    of_model = sum(phases_ms[name] for name in MODEL)
    return {
        "scenes_per_s": spec.train.batch / step_ms * 1000,
        "tflops": tflop / step_ms * 1000,
        "matmul_tflops": peak,
        "matmul_dtype": dtype,
        "mfu": tflop / step_ms * 1000 / peak,
        "mfu_model": tflop / of_model * 1000 / peak,
    }
