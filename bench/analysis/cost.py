"""What each setting costs, from its runs' profiles: time, memory, use of the device, inference, as ratios to the
reference beside the paper's."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from bench.analysis import paper, remarks
from bench.analysis.estimates import estimate_ratios
from bench.analysis.formatting import PARAMETERS, FormattedTable, markdown, millions
from bench.analysis.sweep_results import SweepResults, SweepRun, flatten
from bench.analysis.variants import reference_of

COLUMNS = {  # field of a profile → heading, format
    "step_time_ms": ("Step [ms]", "{:.0f}"),
    "step_time_ms_p90": ("90 %", "{:.0f}"),
    "step_time_ms_p99": ("99 %", "{:.0f}"),
    "scenes_per_s": ("Scenes/s", "{:.3g}"),
    "tflops": ("TFLOP/s", "{:.3g}"),
    "mfu": ("MFU", "{:.0%}"),
    "mfu_model": ("MFU of E + A + D", "{:.0%}"),
    "host_peak_memory_gib": ("Host mem. [GiB]", "{:.2f}"),
    "allocated_peak_memory_gib": ("Allocated [GiB]", "{:.3g}"),
    "reserved_peak_memory_gib": ("Reserved [GiB]", "{:.3g}"),
    "device_memory_gib": ("Device [GiB]", "{:.3g}"),
    "other_share": ("Other", "{:.1%}"),
    "phases_overhead": ("Measuring phases", "{:+.1%}"),
    "data_wait_share": ("Waiting for data", "{:.1%}"),
    "inference.latency_ms": ("Latency [ms]", "{:.3g}"),
    "inference.peak_memory_gib": ("Inference [GiB]", "{:.3g}"),
    "inference.kept_gaussians": ("Kept Gaussians", "{:,.0f}"),
    "inference.views_per_s": ("Rendering [views/s]", "{:,.0f}"),
}
PAPER_TIME, PAPER_MEMORY = "Paper: time", "Paper: memory"
MEMORY = ("reserved_peak_memory_gib", "allocated_peak_memory_gib", "host_peak_memory_gib")
PAPER = "The paper: GPU [GB] of Table 3, which memory is not stated; days of training (§3.2), not of Ours1."
Costs = Mapping[str, Mapping[str, float]]  # setting → field → mean over seeds


def build(sweep: SweepResults) -> FormattedTable | None:
    """None for a sweep without profiles that say what a step does."""
    costs = {label: _mean(runs) for label, runs in sweep.groups().items()}
    if not any("scenes_per_s" in cost for cost in costs.values()):
        return None
    reference = reference_of(sweep)
    memory = next((name for name in MEMORY if all(name in cost for cost in costs.values() if cost)), MEMORY[-1])
    printed = {label: _printed(runs) for label, runs in sweep.groups().items()}
    lines = []
    for label, cost in costs.items():
        parameters = sweep.groups()[label][0].line.get("parameters") or {}
        line = {"": label, PARAMETERS: millions(parameters.get("total"))}
        line |= {heading: form.format(cost[n]) if n in cost else "" for n, (heading, form) in COLUMNS.items()}
        line |= dict(_ratios(label, reference, costs, memory, printed))
        lines.append(line)
    cells = pd.DataFrame(lines)
    shown = cells.loc[:, (cells != "").any()]
    title = f"Cost: {remarks.subject(sweep)}"
    notes = _definitions(sweep, memory, list(map(str, shown))) + ([PAPER] if PAPER_MEMORY in shown else [])
    return FormattedTable(title, shown, list(_remarks(sweep, reference)), notes)


def render(sweep: SweepResults) -> dict[str, str]:
    """{"csv", "md"}: the table's text in each format; empty where it does not apply."""
    table = build(sweep)
    return {} if table is None else {"csv": table.cells.to_csv(index=False), "md": markdown(table)}


def _mean(runs: Sequence[SweepRun]) -> dict[str, float]:
    """Of each run's first profile."""
    profiles = [flatten(next(iter(run.folder.profiles().values()), {})) for run in runs]
    values = {name: [p[name] for p in profiles if p.get(name) is not None] for name in COLUMNS}
    return {name: statistics.fmean(of_seeds) for name, of_seeds in values.items() if of_seeds}


def _printed(runs: Sequence[SweepRun]) -> paper.Result | None:
    """The paper's line of the base."""
    base = str(runs[0].line.get("base"))
    return next((result for result in paper.TABLE_3 if result.model.lower() == base), None)


def _ratios(
    label: str, reference: str, costs: Costs, memory: str, printed: Mapping[str, paper.Result | None]
) -> Iterator[tuple[str, str]]:
    """To the reference: measured, and printed of another base where the paper has both."""
    for title, name in (("Time", "step_time_ms"), ("Memory", memory)):
        pair = (costs[label].get(name), costs[reference].get(name))
        yield f"{title} ÷ reference", _ratio(*pair)
    ours, theirs = printed[label], printed[reference]
    compared = (ours, theirs) if ours and theirs and ours is not theirs else None
    yield PAPER_TIME, _ratio(*(result.days for result in compared)) if compared else ""
    yield PAPER_MEMORY, _ratio(*(result.gpu_gb for result in compared)) if compared else ""


def _ratio(value: float | None, reference: float | None) -> str:
    return f"{value / reference:.2f}" if value and reference else ""


def _remarks(sweep: SweepResults, reference: str) -> Iterator[str]:
    yield f"Reference: {reference}."
    yield from filter(None, [remarks.step_conditions(sweep)])
    weights = {p.get("weights") for run in sweep.runs for p in run.folder.profiles().values()}
    if "initial" in weights:
        yield "Weights are not trained: where Gaussians lie, and how many are kept, changes in training."
    if ratios := estimate_ratios(sweep):
        yield f"Estimate ÷ measured: {'; '.join(f'{label}: {text}' for label, text in ratios.items())}."


def _definitions(sweep: SweepResults, memory: str, headings: Collection[str]) -> list[str]:
    profiles = [profile for run in sweep.runs for profile in run.folder.profiles().values()]
    texts: dict[str, Any] = dict(item for profile in profiles for item in profile["definitions"].items())
    names = dict.fromkeys(name.partition(".")[0] for name, (heading, _) in COLUMNS.items() if heading in headings)
    notes = [f"{PARAMETERS} are trained parameters, truncated to millions as in the paper."]
    notes += [f"{COLUMNS[name][0] if name in COLUMNS else name}: {texts[name]}." for name in names if name in texts]
    peak = next((p for p in profiles if p.get("matmul_tflops")), None)
    if peak:
        notes.append(f"MFU is against {peak['matmul_tflops']:.3g} TFLOP/s of {peak['matmul_dtype']} matrix products.")
    notes.append(f"Memory ÷ reference is of {COLUMNS[memory][0]}.")
    return notes
