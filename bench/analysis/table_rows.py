"""The lines of a sweep's table: its runs, seeds together, and the baselines of the same scenes and views."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.analysis.sweep_results import SweepResults, SweepRun

MEASURED = ("step_time_ms", "host_peak_memory_gib", "allocated_peak_memory_gib", "reserved_peak_memory_gib",
            "device_memory_gib", "data_wait_share")  # fmt: skip
BASELINE_METRICS = {"psnr": "PSNR", "psnr_foreground": "FG PSNR"}  # what a useful model beats the simple baselines in


@dataclass
class TableRow:
    """One line: metric or measurement → one value a seed. Baselines have `kind` "baseline" or "oracle"."""

    label: str
    kind: str = "run"
    values: dict[str, list[float]] = field(default_factory=dict)
    parameters: Mapping[str, int] | None = None
    status: str = ""
    baselines_not_exceeded: tuple[str, ...] = ()

    def mean(self, name: str) -> float:
        values = self.values.get(name, [])
        return statistics.fmean(values) if values else math.nan

    def deviation(self, name: str) -> float:
        """Between seeds (n − 1); nan for a single one."""
        values = self.values.get(name, [])
        return statistics.stdev(values) if len(values) > 1 else math.nan


def table_rows(sweep: SweepResults, protocol: str) -> list[TableRow]:
    """Runs in the sweep's order with seeds together, then the baselines of their evaluations."""
    runs, baselines = [], dict[str, tuple[str, dict[str, TableRow]]]()
    for label, entries in sweep.groups().items():
        evaluations = [entry.folder.evaluations().get(protocol) for entry in entries]
        own = _baselines(e for e in evaluations if e)
        runs.append(_run(label, entries, evaluations, own))
        if own:
            baselines.setdefault(repr([row.values for row in own.values()]), (label, own))
    several = len(baselines) > 1  # runs evaluated on other views or scenes have baselines of their own
    for label, own in baselines.values():
        for row in own.values():
            row.label += f" — of {label}" if several else ""
            runs.append(row)
    return runs


def _run(
    label: str,
    entries: Sequence[SweepRun],
    evaluations: Sequence[Mapping[str, Any] | None],
    own: Mapping[str, TableRow],
) -> TableRow:
    row = TableRow(label, status=_status(entries))
    for entry, evaluation in zip(entries, evaluations, strict=True):
        _extend(row, evaluation["means"] if evaluation else {})
        profile = next(iter(entry.folder.profiles().values()), {})
        measured = {"data_wait_share": (entry.folder.training() or {}).get("data_wait_share"), **profile}
        _extend(row, {name: measured.get(name) for name in MEASURED})
        row.parameters = row.parameters or (evaluation or entry.line).get("parameters")
    simple = [baseline for baseline in own.values() if baseline.kind == "baseline"]
    row.baselines_not_exceeded = tuple(
        f"{baseline.label} ({heading})"
        for name, heading in BASELINE_METRICS.items()
        for baseline in simple
        if row.values.get(name) and row.mean(name) <= baseline.mean(name)
    )
    return row


def _baselines(evaluations: Iterable[Mapping[str, Any]]) -> dict[str, TableRow]:
    """The same scenes and views give every seed the same baselines: those of the first."""
    for evaluation in evaluations:
        found = {}
        for name, baseline in evaluation["baselines"].items():
            found[name] = TableRow(baseline["label"], "oracle" if baseline["oracle"] else "baseline")
            _extend(found[name], baseline["means"])
        return found
    return {}


def _extend(row: TableRow, values: Mapping[str, float | None]) -> None:
    for name, value in values.items():
        if value is not None:
            row.values.setdefault(name, []).append(value)


def _status(entries: Sequence[SweepRun]) -> str:
    states = [entry.state for entry in entries]
    return states[0] if len(set(states)) == 1 else ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))
