"""What a search can want: a metric of the runs' protocol, their parameters, or what their profiles measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from bench.protocols import Protocol
from bench.runs.folder import RunFolder
from bench.runtime import lpips_weights

MEASURED = {"step_time_ms": ("Step", "ms"), "host_peak_memory_gib": ("Host mem.", "GiB"),
            "allocated_peak_memory_gib": ("Allocated mem.", "GiB"),
            "reserved_peak_memory_gib": ("GPU mem.", "GiB")}  # fmt: skip


@dataclass(frozen=True)
class Objective:
    """One number of a finished run, with its direction. A measured one is noisy, and defined in each profile."""

    name: str
    heading: str
    unit: str
    better: Literal["higher", "lower"]
    source: Literal["metric", "count", "profile"]
    definition: str

    @property
    def title(self) -> str:
        return f"{self.heading} [{self.unit}]" if self.unit else self.heading

    def value(self, run: RunFolder, protocol: Protocol) -> float | None:
        """None where the run has no such number: not finished, or not to be had on its machine."""
        if self.source == "profile":
            number = next(iter(run.profiles().values()), {}).get(self.name)
        else:
            evaluation = run.evaluations().get(protocol.key, {})
            count = evaluation.get("parameters", {}).get("total")
            number = count if self.source == "count" else evaluation.get("means", {}).get(self.name)
        return None if number is None else float(number)

    def unavailable_reason(self, device: str) -> str | None:
        """Why no run on this machine will have it; None if nothing is known to be in the way."""
        if self.name == "reserved_peak_memory_gib" and device == "cpu":
            return f"{self.name} is empty on a CPU: use allocated_peak_memory_gib, or --device cuda"
        for net in get_args(lpips_weights.Net):
            if self.name == f"lpips_{net}" and not lpips_weights.backbone_available(net):
                return f"{self.name} needs its trained backbone: run `python -m bench.setup`"
        return None


def available_objectives(protocol: Protocol) -> dict[str, Objective]:
    """Name → objective, of those that have a direction."""
    objectives = [
        Objective(m.name, m.heading, m.unit, m.better, "metric", f"{m.definition} (protocol {protocol.key})")
        for m in protocol.metrics
        if m.better != "none"
    ]
    objectives.append(Objective("parameters", "Params.", "", "lower", "count", "trained parameters of E, A and D"))
    for name, (heading, unit) in MEASURED.items():
        objectives.append(Objective(name, heading, unit, "lower", "profile", "measured once a run, with noise"))
    return {objective.name: objective for objective in objectives}


def dominates(one: Sequence[float], other: Sequence[float], objectives: Sequence[Objective]) -> bool:
    """Whether `one` is nowhere worse than `other`, and somewhere better."""
    signs = [1 if objective.better == "higher" else -1 for objective in objectives]
    gains = [sign * (a - b) for sign, a, b in zip(signs, one, other, strict=True)]
    return min(gains) >= 0 and max(gains) > 0
