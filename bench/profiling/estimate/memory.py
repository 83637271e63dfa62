"""A trace → peak memory by kind of buffer, allocated and reserved, as a range where it depends on the Gaussians."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.profiling.estimate.allocator import replay
from bench.profiling.estimate.tracing import Trace
from bench.rendering.gsplat_shapes import INTERSECTIONS

GIB = 2**30
STATIC = ("weights", "gradients", "optimizer", "exchange", "loss networks", "batch")
TILES = {"low": 1.0, "expected": 4.0, "high": 16.0}  # that a Gaussian covers in a view, on average
DEFINITIONS = {
    "allocated_gib": "most bytes that tensors hold at once (torch.cuda.max_memory_allocated)",
    "reserved_gib": "most bytes that the caching allocator holds (torch.cuda.max_memory_reserved), after two steps",
    "device_gib": "reserved, and outside of the allocator the context, libraries and NCCL's buffers",
    "at_peak_gib": "what is allocated at the peak, by the part whose forward pass made it",
    "static_gib": "most bytes of each kind at any time; exchange: buckets in which ranks sum gradients",
    "range": f"the rasterizer's sort buffers hold one entry for each tile of {16} pixels that a Gaussian covers: "
    + ", ".join(f"{name} {tiles:g} tiles" for name, tiles in TILES.items()),
}


@dataclass(frozen=True)
class Range:
    """GiB; `low` and `high` differ where values of tensors decide."""

    low: float
    expected: float
    high: float

    def plus(self, other: Range) -> Range:
        return Range(self.low + other.low, self.expected + other.expected, self.high + other.high)


@dataclass(frozen=True)
class Memory:
    """Of one process; see DEFINITIONS."""

    allocated_gib: Range
    reserved_gib: Range
    at_peak_gib: Mapping[str, float]  # of the expected one, largest first
    static_gib: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Memory:
        """The inverse of `to_dict`."""
        ranges = {name: Range(**content[name]) for name in ("allocated_gib", "reserved_gib")}
        return cls(**ranges, at_peak_gib=content["at_peak_gib"], static_gib=content["static_gib"])


def memory_of(trace: Trace, share: float) -> Memory:
    """`share`: of the process's scenes that the trace holds (micro-batches beyond the second repeat it)."""
    peaks = {}
    for name, tiles in TILES.items():
        factors = {INTERSECTIONS: tiles, "batch": 1 / share}
        sizes = [round(size * factors.get(label, 1)) for size, label in zip(trace.sizes, trace.labels, strict=True)]
        allocator = replay(sizes, trace.events, trace.step)
        peaks[name] = sizes, allocator.peak_allocated / GIB, allocator.reserved / GIB
    at_peak, static = _by_label(peaks["expected"][0], trace)
    return Memory(
        allocated_gib=_range({name: allocated for name, (_, allocated, _) in peaks.items()}),
        reserved_gib=_range({name: reserved for name, (_, _, reserved) in peaks.items()}),
        at_peak_gib={label: size / GIB for label, size in at_peak.most_common() if size},
        static_gib={label: static[label] / GIB for label in STATIC},
    )


def _range(gib: Mapping[str, float]) -> Range:
    """Larger buffers may fit the allocator's segments better, so that it reserves less."""
    return Range(min(gib.values()), gib["expected"], max(gib.values()))


def from_allocator_gib(memory: Memory) -> float:
    """What of a CPU's peak comes from torch's allocator: the batch and the loss networks' weights are NumPy's there."""
    others = sum(memory.at_peak_gib.get(label, 0.0) for label in ("batch", "loss networks"))
    return memory.allocated_gib.expected - others


def _by_label(sizes: Sequence[int], trace: Trace) -> tuple[Counter[str], Counter[str]]:
    """Bytes at the step's peak, and the most bytes of each label at any time."""
    now, most, at_peak = Counter[str](), Counter[str](), Counter[str]()
    total = peak = 0
    for i, event in enumerate(trace.events):
        buffer = abs(event) - 1
        label, change = trace.labels[buffer], sizes[buffer] if event > 0 else -sizes[buffer]
        now[label] += change
        total += change
        most[label] = max(most[label], now[label])
        if i >= trace.step and total > peak:
            peak, at_peak = total, now.copy()
    return at_peak, most
