"""Which switch makes a run fit so many gigabytes: those of SWITCHES in order, each with smaller micro-batches."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bench.config.schema import RecomputeSpec
from bench.config.validate import problems
from bench.profiling.estimate.estimate import Hardware, estimate

if TYPE_CHECKING:
    from bench.config.schema import RunSpec

USABLE = 0.985  # of a card's nominal memory, in GiB


@dataclass(frozen=True)
class Switch:
    """A change of a spec that saves memory; it adds to those before it in SWITCHES."""

    overrides: tuple[str, ...]  # as on the command line
    apply: Callable[[RunSpec], RunSpec]
    consequence: str


def _train(**changes: Any) -> Callable[[RunSpec], RunSpec]:
    return lambda spec: replace(spec, train=replace(spec.train, **changes))


def _encoder_in_bf16(spec: RunSpec) -> RunSpec:
    precision = replace(spec.model.precision, encoder="bf16")
    return replace(spec, model=replace(spec.model, precision=precision))


SWITCHES = (
    Switch((), lambda spec: spec, "the same gradients, summed over micro-batches"),
    Switch(("train.views_at_once=1",), _train(views_at_once=1), "the same gradients, target views rendered in turn"),
    Switch(
        (*(f"train.recompute.{part}=selective" for part in ("encoder", "aggregator", "head")), "train.head_views=1"),
        _train(recompute=RecomputeSpec("selective", "selective", "selective"), head_views=1),
        "the same gradients, an eighth more arithmetic",
    ),
    Switch(
        ("train.recompute.encoder=block", "train.recompute.aggregator=block"),
        _train(recompute=RecomputeSpec("block", "block", "selective")),
        "the same gradients, a quarter more arithmetic",
    ),
    Switch(("train.shard=true",), _train(shard=True), "the same gradients, more exchange between GPUs"),
    Switch(("model.precision.encoder=bf16",), _encoder_in_bf16, "another run: E in bf16"),
)


@dataclass(frozen=True)
class Fit:
    """Overrides under which a run fits, none where it fits as it is; None where nothing here suffices."""

    gb: float
    overrides: tuple[str, ...] | None
    consequence: str
    device_gib: float  # upper bound, of the proposal or of the smallest that was tried

    def to_dict(self) -> dict[str, Any]:
        return vars(self) | {"overrides": None if self.overrides is None else list(self.overrides)}


def fit(spec: RunSpec, hardware: Hardware, gb: float) -> Fit:
    """The first of `candidates` whose upper bound fits; within a switch, the largest micro-batch."""
    smallest = float("inf")

    def device_gib(changed: RunSpec) -> float:
        return float(estimate(changed, hardware)["memory"]["device_gib"]["high"])

    changed, overrides = spec, tuple[str, ...]()
    for switch in SWITCHES:
        candidate = switch.apply(changed)
        useless = candidate.train.shard and not changed.train.shard and hardware.ranks == 1
        if useless or any(problems(candidate)):  # say, a term that needs all target views at once
            continue
        changed = candidate
        overrides += switch.overrides
        sizes = micro_batches(spec, hardware.ranks)
        specs = [changed, *(replace(changed, train=replace(changed.train, micro_batch=size)) for size in sizes)]
        if (least := device_gib(specs[-1])) > gb * USABLE:
            smallest = min(smallest, least)
            continue
        first = bisect_left(specs, True, key=lambda candidate: device_gib(candidate) <= gb * USABLE)
        more = (f"train.micro_batch={sizes[first - 1]}",) if first else ()
        consequence = switch.consequence if overrides or more else ""
        return Fit(gb, (*overrides, *more), consequence, device_gib(specs[first]))
    return Fit(gb, None, "", smallest)


def micro_batches(spec: RunSpec, ranks: int) -> list[int]:
    """Halves of what a process takes at once, down to one scene."""
    size, sizes = spec.train.micro_batch or -(-spec.train.batch // ranks), list[int]()
    while size > 1 and size % 2 == 0:
        size //= 2
        sizes.append(size)
    return sizes if size == 1 else [*sizes, 1]
