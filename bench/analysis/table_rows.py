"""The lines of a sweep's table: its runs, seeds together, and the baselines of the same scenes and views."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.analysis import pretraining
from bench.analysis.formatting import format_number
from bench.analysis.sweep_results import SweepResults, SweepRun

MEASURED = ("step_time_ms", "host_peak_memory_gib", "allocated_peak_memory_gib", "reserved_peak_memory_gib",
            "device_memory_gib", "data_wait_share", "forward_gflop")  # fmt: skip
OF = " — of "  # between a baseline's name and the run that it belongs to, where runs have others
BASELINE_METRICS = {  # what a useful model beats the simple baselines in: heading, whether higher is better
    "psnr": ("PSNR", True), "psnr_foreground": ("FG PSNR", True), "point_error": ("point error", False),
    "completion_error": ("completion error", False),
}  # fmt: skip


@dataclass
class TableRow:
    """One line: metric or measurement → one value a seed. Baselines have `kind` "baseline" or "oracle"."""

    label: str
    kind: str = "run"
    values: dict[str, list[float]] = field(default_factory=dict)
    parameters: Mapping[str, int] | None = None
    status: str = ""
    baselines_not_exceeded: tuple[str, ...] = ()

    def append(self, values: Mapping[str, float | None]) -> None:
        """Add one seed's values; None is none."""
        for name, value in values.items():
            if value is not None:
                self.values.setdefault(name, []).append(value)

    def mean(self, name: str) -> float:
        values = self.values.get(name, [])
        return statistics.fmean(values) if values else math.nan

    def deviation(self, name: str) -> float:
        """Between seeds (n − 1); nan for a single one."""
        values = self.values.get(name, [])
        return statistics.stdev(values) if len(values) > 1 else math.nan


def table_rows(sweep: SweepResults, protocol: str) -> list[TableRow]:
    """Runs in the sweep's order with seeds together, then the baselines of their evaluations."""
    rows, baselines = [], dict[str, tuple[str, TableRow]]()
    by_id = {run.id: run for run in sweep.runs}
    for label, runs in sweep.groups().items():
        evaluations = [run.folder.evaluations().get(protocol) for run in runs]
        own = _baseline_rows(evaluation for evaluation in evaluations if evaluation)
        rows.append(_run_row(label, runs, evaluations, own))
        for run in runs:
            rows[-1].append({pretraining.COLUMN: pretraining.tflop(run, by_id)})
        for row in own.values():
            baselines.setdefault(repr((row.label, row.values)), (label, row))
    counts = Counter(row.label for _, row in baselines.values())
    for label, row in baselines.values():  # runs evaluated on other views or scenes have baselines of their own
        row.label += f"{OF}{label}" if counts[row.label] > 1 else ""
        rows.append(row)
    return rows


def format_cell(row: TableRow, name: str) -> str:
    """A metric or measurement as tables print it: the mean over seeds ± their deviation; empty without a value."""
    deviation = format_number(name, row.deviation(name))
    return format_number(name, row.mean(name)) + (f" ± {deviation}" if deviation else "")


def _run_row(
    label: str,
    runs: Sequence[SweepRun],
    evaluations: Sequence[Mapping[str, Any] | None],
    baselines: Mapping[str, TableRow],
) -> TableRow:
    row = TableRow(label, status=_status(runs))
    for run, evaluation in zip(runs, evaluations, strict=True):
        row.append(evaluation["means"] if evaluation else {})
        row.append(measurements(run))
        row.parameters = row.parameters or (evaluation or run.line).get("parameters")
    simple = [baseline for baseline in baselines.values() if baseline.kind == "baseline"]
    row.baselines_not_exceeded = tuple(
        f"{baseline.label} ({heading})"
        for name, (heading, higher) in BASELINE_METRICS.items()
        for baseline in simple
        if row.values.get(name) and not _better(row.mean(name), baseline.mean(name), higher)
    )
    return row


def _better(value: float, baseline: float, higher: bool) -> bool:
    """Also than a baseline that has no such value."""
    return math.isnan(baseline) or (value > baseline if higher else value < baseline)


def measurements(run: SweepRun) -> dict[str, float | None]:
    """MEASURED of a run: of its first profile and its training; None where it was not measured."""
    profile = next(iter(run.folder.profiles().values()), {})
    measured = {"data_wait_share": (run.folder.training() or {}).get("data_wait_share"), **profile}
    return {name: measured.get(name) for name in MEASURED}


def _baseline_rows(evaluations: Iterable[Mapping[str, Any]]) -> dict[str, TableRow]:
    """The same scenes and views give every seed the same baselines: those of the first."""
    rows: dict[str, TableRow] = {}
    for name, baseline in next(iter(evaluations), {"baselines": {}})["baselines"].items():
        rows[name] = TableRow(baseline["label"], "oracle" if baseline["oracle"] else "baseline")
        rows[name].append(baseline["means"])
    return rows


def _status(runs: Sequence[SweepRun]) -> str:
    states = [run.state for run in runs]
    return states[0] if len(set(states)) == 1 else ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))
