"""What a run will cost, before it runs: FLOPs, memory and hours, from its spec and the hardware's name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bench.profiling.estimate.cache import cached
from bench.profiling.estimate.duration import exchange_seconds, seconds_by_part
from bench.profiling.estimate.fake_step import Target, trace_step
from bench.profiling.estimate.hardware import UNCALIBRATED, Card
from bench.profiling.estimate.memory import DEFINITIONS, GIB, Memory, Range, memory_of
from bench.profiling.estimate.tracing import Operation

if TYPE_CHECKING:
    from bench.config.schema import RunSpec

CONTEXT_GIB = Range(0.45, 0.6, 1.0)  # of CUDA and its libraries, outside of the allocator; not measured here
NCCL_GIB = Range(0.2, 0.6, 1.2)  # of the communicators of one node
LIBRARY_WORKSPACES_GIB = Range(0.01, 0.1, 0.6)  # of cuBLAS and cuDNN, inside of the allocator; cuDNN's choice
NOTHING = Range(0.0, 0.0, 0.0)
UNCALIBRATED_FACTOR = 2.5  # by which the paper's steps took longer than at the data sheet's share: 1.7 and 2.3
TERA = 1e12


@dataclass(frozen=True)
class Hardware:
    """What a run gets: `ranks` processes, each with one `card`; `assumed` says why the card may be another one."""

    card: Card
    ranks: int = 1
    assumed: str | None = None

    @property
    def target(self) -> Target:
        return "cpu" if self.card.memory_gib is None else "cuda"


@dataclass(frozen=True)
class StepCost:
    """One process's step: memory, and operators with how often each runs."""

    memory: Memory
    operations: Mapping[Operation, float]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        operations = [[*operation, count] for operation, count in self.operations.items()]
        return {"memory": self.memory.to_dict(), "operations": operations}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> StepCost:
        """The inverse of `to_dict`."""
        operations = {Operation(*fields): count for *fields, count in content["operations"]}
        return cls(Memory.from_dict(content["memory"]), operations)

    def tflop(self, phase: str) -> float:
        return sum(count * operation.flops for operation, count in self.operations.items()
                   if operation.phase == phase) / TERA  # fmt: skip


def step_cost(spec: RunSpec, ranks: int, target: Target) -> StepCost:
    """Of one of `ranks` processes. A third micro-batch and later ones repeat the second."""
    scenes = -(-spec.train.batch // ranks)
    traced = min(scenes, 2 * (spec.train.micro_batch or scenes))
    trace = trace_step(spec, traced, ranks, target)
    counts = {
        operation: count * (1 if operation.phase == "update" else scenes / traced)
        for operation, count in trace.operations.items()
    }
    return StepCost(memory_of(trace, traced / scenes), counts)


def cached_step_cost(spec: RunSpec, ranks: int, target: Target) -> StepCost:
    """Traced once for each cost-relevant spec."""
    return StepCost.from_dict(cached(spec, ranks, target, lambda: step_cost(spec, ranks, target).to_dict()))


def estimate(spec: RunSpec, hardware: Hardware) -> dict[str, Any]:
    """Ready for JSON; see `definitions` in it.

    Raises UserError for a damaged file of measured rates, and whatever a user's own part raises without values.
    """
    ranks, card, target = hardware.ranks, hardware.card, hardware.target
    cost = cached_step_cost(spec, ranks, target)
    parts = seconds_by_part(cost.operations, card.rates, spec.train.matmul_precision)
    if ranks > 1:
        held = cost.memory.static_gib["gradients"] * GIB
        moved = 1.5 * ranks * held if spec.train.shard else held  # weights gathered twice, gradients scattered
        parts["update exchange"] += exchange_seconds(moved, ranks, card.rates)
    step_s = sum(parts.values())
    hours = step_s * spec.train.steps / 3600
    slower = UNCALIBRATED_FACTOR if card.source == UNCALIBRATED else 1.0
    return {
        "hardware": {"card": card.name, "ranks": ranks, "memory_gib": card.memory_gib, "rates": card.source,
                     "assumed": hardware.assumed},
        "tflop_per_step": _tflop(cost, ranks),
        "memory": _memory(cost.memory, ranks, target),
        "fits": fits(cost.memory, ranks, card),
        "step_ms": step_s * 1000,
        "step_ms_by_part": {part: seconds * 1000 for part, seconds in _largest_first(parts)},
        "hours": {"low": hours, "high": hours * slower},
        "gpu_hours": {"low": hours * ranks, "high": hours * ranks * slower} if target == "cuda" else None,
        "definitions": DEFINITIONS,
    }  # fmt: skip


def fits(memory: Memory, ranks: int, card: Card) -> bool | None:
    """Whether the lower bound, what tensors hold and the context, fits the card; None where nothing limits it."""
    if card.memory_gib is None:
        return None
    return lower_bound_gib(memory, ranks) <= card.memory_gib


def lower_bound_gib(memory: Memory, ranks: int) -> float:
    """Less does not suffice: kept segments are given back when memory runs out, tensors and contexts are not."""
    return memory.allocated_gib.low + LIBRARY_WORKSPACES_GIB.low + _outside(ranks).low


def _outside(ranks: int) -> Range:
    return CONTEXT_GIB.plus(NCCL_GIB if ranks > 1 else NOTHING)


def _memory(memory: Memory, ranks: int, target: Target) -> dict[str, Any]:
    """On a CPU only what is allocated means something."""
    content = {"allocated_gib": asdict(memory.allocated_gib), "at_peak_gib": memory.at_peak_gib,
               "static_gib": memory.static_gib}  # fmt: skip
    if target == "cpu":
        return content
    reserved = memory.reserved_gib.plus(LIBRARY_WORKSPACES_GIB)
    return content | {
        "allocated_gib": asdict(memory.allocated_gib.plus(LIBRARY_WORKSPACES_GIB)),
        "reserved_gib": asdict(reserved),
        "workspaces_gib": asdict(LIBRARY_WORKSPACES_GIB),
        "context_gib": asdict(_outside(ranks)),
        "device_gib": asdict(reserved.plus(_outside(ranks))),
        "lower_bound_gib": lower_bound_gib(memory, ranks),
    }


def _tflop(cost: StepCost, ranks: int) -> dict[str, Any]:
    """Of all processes together, by phase and by part."""
    by_part = defaultdict[str, float](float)
    for operation, count in cost.operations.items():
        by_part[f"{operation.phase} {operation.part}"] += count * operation.flops * ranks
    phases = {phase: cost.tflop(phase) * ranks for phase in ("forward", "backward")}
    parts = {part: flops / TERA for part, flops in _largest_first(by_part) if flops}
    return {**phases, "total": sum(phases.values()), "by_part": parts}


def _largest_first(values: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(values.items(), key=lambda item: -item[1])
