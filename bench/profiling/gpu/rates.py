"""What the card sustains: products of the models' shapes, traffic, launches; written as estimates read them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bench.common.environment import device_name
from bench.common.json_files import write_json
from bench.profiling.gpu.suite import Measurement, Suite, find

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# (rows, inner, columns) of a block of A in Table 3's models at 8 scenes of 4 views, patch 16: q k v, the MLP
SHAPES = ((8192, 1024, 3072), (8192, 1024, 4096), (8192, 4096, 1024))
LARGEST = (8192, 8192, 8192)
PRECISIONS = {"bfloat16": "highest", "tf32": "high", "float32": "highest"}  # torch.set_float32_matmul_precision
TRAFFIC_BYTES = 2**31  # several times any L2 cache
LAUNCHES = 2000


def measurements() -> tuple[Measurement, Measurement]:
    """The first may run while the CPUs are busy, the second wants them quiet."""
    return (
        Measurement("rates", "products and traffic", products, 20, quiet=False),
        Measurement("rates", "launches", launches, 10),
    )


def products(suite: Suite) -> dict[str, Any]:
    """TFLOP/s of products on random data, and GB/s of a copy, bytes read and written."""
    import torch

    shapes = [(64, 64, 64)] if suite.tiny else [*SHAPES, LARGEST]
    before = torch.get_float32_matmul_precision()
    tflops: dict[str, dict[str, float]] = {}
    for kind, precision in PRECISIONS.items():
        torch.set_float32_matmul_precision(precision)
        dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
        tflops[kind] = {" × ".join(map(str, shape)): _product_tflops(shape, dtype, suite.device) for shape in shapes}
    torch.set_float32_matmul_precision(before)
    size = 2**20 if suite.tiny else TRAFFIC_BYTES
    source = torch.randn(size // 4, device=suite.device)
    target = torch.empty_like(source)
    bandwidth = 2 * size / 1e9 / _seconds(lambda: target.copy_(source), suite.device)
    best = {kind: max(rates.values()) for kind, rates in tflops.items()}
    text = ", ".join(f"{kind} {rate:.1f}" for kind, rate in best.items())
    return {"tflops": tflops, "bandwidth_gb_s": bandwidth, "summary": f"TFLOP/s {text}; {bandwidth:.0f} GB/s"}


def launches(suite: Suite) -> dict[str, Any]:
    """Microseconds of an operator that computes next to nothing, with autograd; then the file of rates."""
    import torch

    value = torch.randn(64, device=suite.device, requires_grad=True)

    def chain() -> None:
        result: Tensor = value
        for _ in range(LAUNCHES):
            result = result + 1.0
        _synchronize(suite.device)

    operator_us = 1e6 * _seconds(chain, suite.device, repeats=3) / LAUNCHES
    result = {"operator_us": operator_us, "summary": f"{operator_us:.1f} µs an operator"}
    first, _ = measurements()
    if (earlier := find(suite, first)) and earlier["state"] == "done":
        result["file"] = _write_rates(suite, earlier, operator_us)
    return result


def _write_rates(suite: Suite, measured: dict[str, Any], operator_us: float) -> str:
    """As bench.profiling.estimate.hardware reads them; the name of the file. One GPU cannot measure the exchange."""
    from bench.profiling.estimate.hardware import card_of

    name = device_name(suite.device)
    card = card_of(name)
    shapes = list(next(iter(measured["tflops"].values())))
    typical = shapes[: len(SHAPES)]
    tflops = {kind: sum(rates[shape] for shape in typical) / len(typical) for kind, rates in measured["tflops"].items()}
    content = {
        "card": card.name if card else name,
        "tflops": tflops,
        "bandwidth_gb_s": measured["bandwidth_gb_s"],
        "operator_us": operator_us,
        "exchange_gb_s": card.rates.exchange_gb_s if card else None,
        "not_measured": ["exchange_gb_s"],
        "shapes": typical,
        "provenance": measured["provenance"],
    }
    file = f"rates_{re.sub(r'[^a-z0-9]+', '_', str(content['card']).lower()).strip('_')}.json"
    write_json(suite.output / file, content)
    return file


def _product_tflops(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> float:
    import torch

    rows, inner, columns = shape
    left, right = (
        torch.randn(rows, inner, device=device).to(dtype),
        torch.randn(inner, columns, device=device).to(dtype),
    )
    result = torch.empty(rows, columns, device=device, dtype=dtype)
    return 2 * rows * inner * columns / 1e12 / _seconds(lambda: torch.mm(left, right, out=result), device)


def _seconds(function: Callable[[], object], device: torch.device, repeats: int = 20) -> float:
    """The median of 5 windows of `repeats` calls each, after a first window."""
    import statistics

    windows = []
    for _ in range(6):
        _synchronize(device)
        started = time.perf_counter()
        for _ in range(repeats):
            function()
        _synchronize(device)
        windows.append((time.perf_counter() - started) / repeats)
    return statistics.median(windows[1:])


def _synchronize(device: torch.device) -> None:
    from bench.profiling.phases import synchronize

    synchronize(device)
