"""Operators and a card's rates → seconds of a step: each operator takes what its arithmetic, its traffic or its start
needs, whichever is longest. The rasterizer's arithmetic, which depends on the Gaussians, is not counted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from bench.profiling.estimate.hardware import Rates
from bench.profiling.estimate.tracing import Operation


def seconds_by_part(
    operations: Mapping[Operation, float], rates: Rates, matmul_precision: str
) -> defaultdict[str, float]:
    """{"forward encoder": …, "backward encoder": …, "update optimizer": …}. `operations` are counted for a step."""
    seconds = defaultdict[str, float](float)
    for operation, count in operations.items():
        kind = operation.dtype
        if kind != "bfloat16":
            kind = "float32" if matmul_precision == "highest" else "tf32"
        arithmetic = operation.flops / (rates.tflops[kind] * 1e12)
        traffic = operation.traffic / (rates.bandwidth_gb_s * 1e9)
        seconds[f"{operation.phase} {operation.part}"] += count * max(arithmetic, traffic, rates.operator_us * 1e-6)
    return seconds


def exchange_seconds(gradient_bytes: float, ranks: int, rates: Rates) -> float:
    """Of a ring sum over the ranks: each sends and receives 2 (ranks − 1) / ranks of the gradients."""
    return 2 * (ranks - 1) / ranks * gradient_bytes / (rates.exchange_gb_s * 1e9)
