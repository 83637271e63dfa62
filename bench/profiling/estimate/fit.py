"""Which switch makes a run fit so many gigabytes: those of SWITCHES in order, each with smaller micro-batches."""

from __future__ import annotations

import logging
import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any, get_args

from bench.common.errors import UserError
from bench.config.schema import Recompute
from bench.config.validate import problems
from bench.profiling.estimate.estimate import Hardware, estimate

if TYPE_CHECKING:
    from bench.config.schema import RunSpec

log = logging.getLogger(__name__)
USABLE = 0.985  # of a card's nominal memory, in GiB


@dataclass(frozen=True)
class Switch:
    """Settings of a spec that save memory; they add to those before it in SWITCHES."""

    settings: Mapping[str, object]
    consequence: str

    def added_to(self, spec: RunSpec) -> dict[str, object]:
        """Those that save memory of a spec: it may have some, or more, already."""
        given = {field: reduce(getattr, field.split("."), spec) for field in self.settings}
        return {field: value for field, value in self.settings.items() if _saves(value, given[field])}


def _saves(value: object, given: object) -> bool:
    """Over what a spec gives."""
    ascending: tuple[object, ...] = get_args(Recompute)
    return ascending.index(value) > ascending.index(given) if value in ascending else value != given


def _changed(spec: RunSpec, settings: Mapping[str, object]) -> RunSpec:
    """A copy with these dotted fields."""
    for field, value in settings.items():
        spec = _with(spec, field, value)
    return spec


def _with(spec: Any, field: str, value: object) -> Any:
    """A copy with another value of a dotted field."""
    name, _, rest = field.partition(".")
    return replace(spec, **{name: _with(getattr(spec, name), rest, value) if rest else value})


SWITCHES = (
    Switch({}, "the same gradients, summed over micro-batches"),
    Switch({"train.views_at_once": 1}, "the same gradients, target views rendered in turn"),
    Switch(
        {**{f"train.recompute.{part}": "selective" for part in ("encoder", "aggregator", "head")},
         "train.head_views": 1},
        "the same gradients, an eighth more arithmetic",
    ),
    Switch(
        {"train.recompute.encoder": "block", "train.recompute.aggregator": "block"},
        "the same gradients, a quarter more arithmetic",
    ),
    Switch({"train.shard": True}, "the same gradients, more exchange between GPUs"),
    Switch({"model.precision.encoder": "bf16"}, "another run: E in bf16"),
)  # fmt: skip


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
    """The first of SWITCHES whose upper bound fits, with the ones before it; within a switch, the largest micro-batch.

    What the spec gives is kept where it saves as much. What cannot be estimated is left out; `spec` itself can be.
    """
    limit = gb * USABLE
    smallest = _device_gib(spec, hardware)
    changed = spec
    settings: dict[str, object] = {}
    for switch in SWITCHES:
        added = switch.added_to(changed)
        candidate = _changed(changed, added)
        useless = (switch.settings and not added) or ("train.shard" in added and hardware.ranks == 1)
        if useless or any(problems(candidate)):  # say, a term that needs all target views at once
            continue
        sizes = micro_batches(spec, hardware.ranks)
        specs = [candidate, *(_with(candidate, "train.micro_batch", size) for size in sizes)]
        while specs and math.isinf(least := _device_gib(specs[-1], hardware)):
            specs.pop()
        if not specs:
            continue
        changed, settings = candidate, settings | added
        smallest = min(smallest, least)
        if least > limit:
            continue
        first = bisect_left(specs, True, key=lambda candidate: _device_gib(candidate, hardware) <= limit)
        proposal = {**settings, **({"train.micro_batch": sizes[first - 1]} if first else {})}
        overrides = tuple(f"{field}={str(value).lower()}" for field, value in proposal.items())
        return Fit(gb, overrides, switch.consequence if overrides else "", _device_gib(specs[first], hardware))
    return Fit(gb, None, "", smallest)


def _device_gib(spec: RunSpec, hardware: Hardware) -> float:
    """Upper bound; infinite where it cannot be estimated."""
    try:
        return float(estimate(spec, hardware)["memory"]["device_gib"]["high"])
    except UserError:
        raise
    except Exception:  # whatever a user's own part raises on tensors without values
        log.debug("estimate of a candidate", exc_info=True)
        return math.inf


def micro_batches(spec: RunSpec, ranks: int) -> list[int]:
    """Halves of what a process takes at once, down to one scene."""
    size, sizes = spec.train.micro_batch or -(-spec.train.batch // ranks), list[int]()
    while size > 1 and size % 2 == 0:
        size //= 2
        sizes.append(size)
    return sizes if size == 1 else [*sizes, 1]
