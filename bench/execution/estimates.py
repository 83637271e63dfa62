"""Estimates of a dry run: what each run will cost, what does not fit, and what would make it fit."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.common.console import progress
from bench.common.errors import UserError
from bench.common.labels import terminal

if TYPE_CHECKING:
    from bench.config import Run
    from bench.profiling.estimate.estimate import Hardware

log = logging.getLogger(__name__)
SHOWN_AT_PEAK = 6  # kinds of buffers
TIMES = {"time": "hours", "GPU time": "gpu_hours"}  # of all steps: heading → field
CPU_COLUMNS = ("allocated", "time")
GPU_COLUMNS = ("allocated", "reserved", "device", "time", "GPU time")
NOT_COMPILED = "train.compile: not counted; the estimates are those of steps without it"
OMITTED = ("GPU time", "reserved", "TFLOP")  # on narrow terminals, in this order


def estimate_runs(
    runs: Sequence[Run], hardware: Hardware, console: Console, fit_gb: float | None = None
) -> list[dict[str, Any]]:
    """For each run {"estimate": …, "fit": … or None}, or {"estimate": None, "estimate_problem": sentence}.

    Raises UserError where --fit is asked of a CPU, and where processes would get different numbers of scenes.
    """
    from bench.profiling.estimate.fit import fit

    if fit_gb is not None and hardware.target == "cpu":
        raise UserError("--fit is for GPUs: name them by --slurm FILE, or use --scale small or paper")
    results: list[dict[str, Any]] = []
    with progress("estimating", len(runs), console) as advance:
        for run in runs:
            result = _estimate(run, hardware)
            if fit_gb is not None and result["estimate"]:
                result["fit"] = fit(run.spec, hardware, fit_gb).to_dict()
            results.append(result)
            advance(1)
    return results


def _estimate(run: Run, hardware: Hardware) -> dict[str, Any]:
    from bench.profiling.estimate.estimate import estimate

    if (batch := run.spec.train.batch) % hardware.ranks:
        assumed = f" (assumed: {hardware.assumed})" if hardware.assumed else ""
        processes = f"the {hardware.ranks} processes of a run{assumed}"
        raise UserError(f"{run.label}: train.batch {batch} is not a multiple of {processes}; change one of them")
    try:
        return {"estimate": estimate(run.spec, hardware)}
    except UserError:
        raise
    except Exception as error:  # whatever a user's own part raises on tensors without values
        log.debug("estimate of %s", run.label, exc_info=True)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return {"estimate": None, "estimate_problem": f"{run.label}: cannot be estimated: {reason}"}


def require_fit(runs: Sequence[Run], hardware: Hardware, console: Console, anyway: bool) -> list[str]:
    """Sentences on runs that cannot fit the hardware's cards. Raises UserError with them, unless `anyway`."""
    if hardware.card.memory_gib is None or hardware.assumed:
        return []
    rows = estimate_runs(runs, hardware, console)
    problems = [text for run, row in zip(runs, rows, strict=True) if (text := misfit(run.label, row["estimate"]))]
    if problems and not anyway:
        hint = "see --estimate --fit GB for what would fit, or pass --submit-anyway"
        raise UserError("\n".join([*problems, f"nothing was submitted: {hint}"]))
    return problems


def misfit(label: str, estimate: Mapping[str, Any] | None) -> str | None:
    """ "Ours1: does not fit A100-80GB: …", None where it may fit."""
    if estimate is None or estimate["fits"] is not False:
        return None
    hardware, least = estimate["hardware"], estimate["memory"]["lower_bound_gib"]
    return (
        f"{label}: does not fit {hardware['card']}: a process needs at least {least:.1f} GiB of "
        f"{hardware['memory_gib']:.1f} GiB"
    )


def print_estimates(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """A table, then what the memory is made of, and in red what does not fit."""
    lines: list[tuple[str, str | None]] = [(row["estimate_problem"], "yellow") for row in rows if not row["estimate"]]
    known = [row for row in rows if row["estimate"]]
    if known:
        console.print(_table(known, console.width))
        lines += [(_peak(row), None) for row in known]
        lines += [(text, "red") for row in known if (text := misfit(row["label"], row["estimate"]))]
        lines += [(_tight(row), "yellow") for row in known if _is_tight(row["estimate"])]
        lines += [
            (_fit(row), None if row["fit"]["overrides"] is not None else "red") for row in known if row.get("fit")
        ]
        lines += [(NOT_COMPILED, None)] if any(row["spec"]["train"]["compile"] for row in known) else []
        lines.append((_hardware(known[0]["estimate"]["hardware"]), None))
    for text, style in lines:
        console.print(escape(terminal(text)), style=style, highlight=False, soft_wrap=True)


def _table(rows: Sequence[Mapping[str, Any]], width: int) -> Table:
    """In so many characters: names whole, and where they leave too little room, without some of OMITTED."""
    headings = ["TFLOP", *CPU_COLUMNS] if rows[0]["estimate"]["gpu_hours"] is None else ["TFLOP", *GPU_COLUMNS]
    columns = {heading: [_cell(row["estimate"], heading) for row in rows] for heading in headings}
    names = [terminal(row["label"]) for row in rows]
    omitted = list[str]()
    for heading in OMITTED:
        needed = [max(map(len, cells)) + 1 for cells in [["run", *names], *([h, *c] for h, c in columns.items())]]
        if sum(needed) + 1 > width and heading in columns:
            del columns[heading]
            omitted.append(heading)
    title = f"Estimated on {_name(rows[0]['estimate']['hardware'])}: TFLOP of a step, GiB of a process"
    caption = f"left out in {width} columns: {', '.join(omitted)}" if omitted else None
    table = Table(box=box.SIMPLE_HEAD, padding=0, title=escape(title), caption=caption)
    table.add_column("run", overflow="fold")
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row, *cells in zip(names, rows, *columns.values(), strict=True):
        table.add_row(escape(name), *cells, style="red" if row["estimate"]["fits"] is False else None)
    return table


def _cell(estimate: Mapping[str, Any], heading: str) -> str:
    if heading == "TFLOP":
        return _number(estimate["tflop_per_step"]["total"])
    if heading in TIMES:
        return _duration(estimate[TIMES[heading]])
    return _range(estimate["memory"][f"{heading}_gib"])


def _duration(hours: Mapping[str, float]) -> str:
    """ "56.4–141 h", below an hour "12.1–30.2 min"."""
    if hours["high"] >= 1:
        return f"{_range(hours)} h"
    return f"{_range({name: 60 * value for name, value in hours.items()})} min"


def _range(values: Mapping[str, float]) -> str:
    """ "33.5" or "33.5–34.6"."""
    low, high = (_number(values[name]) for name in ("low", "high"))
    return low if low == high else f"{low}–{high}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def _peak(row: Mapping[str, Any]) -> str:
    memory = row["estimate"]["memory"]
    static = memory["static_gib"]
    tflop = row["estimate"]["tflop_per_step"]
    phases = ", ".join(f"{phase} {_number(tflop[phase])}" for phase in ("forward", "backward"))
    parts = [f"{kind} {_number(size)}" for kind, size in list(memory["at_peak_gib"].items())[:SHOWN_AT_PEAK]]
    kept = ", ".join(f"{kind} {_number(static[kind])}" for kind in ("weights", "gradients", "optimizer"))
    return f"{row['label']}: {phases} TFLOP; at the peak {', '.join(parts)} GiB; static {kept} GiB"


def _is_tight(estimate: Mapping[str, Any]) -> bool:
    capacity = estimate["hardware"]["memory_gib"]
    return bool(capacity and estimate["fits"] and estimate["memory"]["device_gib"]["high"] > capacity)


def _tight(row: Mapping[str, Any]) -> str:
    hardware, memory = row["estimate"]["hardware"], row["estimate"]["memory"]
    return f"{row['label']}: may not fit {hardware['card']}: up to {memory['device_gib']['high']:.1f} GiB of a process"


def _fit(row: Mapping[str, Any]) -> str:
    fit = row["fit"]
    start = f"{row['label']} in {fit['gb']:g} GB"
    if fit["overrides"] is None:
        return f"{start}: no switch suffices, the smallest takes up to {fit['device_gib']:.1f} GiB; use more processes"
    change = " ".join(fit["overrides"]) or "fits as it is"
    reason = f" ({fit['consequence']})" if fit["consequence"] else ""
    return f"{start}: {change}{reason}, up to {fit['device_gib']:.1f} GiB"


def _name(hardware: Mapping[str, Any]) -> str:
    return f"{hardware['ranks']} × {hardware['card']}" if hardware["memory_gib"] else str(hardware["card"])


def _hardware(hardware: Mapping[str, Any]) -> str:
    assumed = f"; assumed: {hardware['assumed']}" if hardware["assumed"] else ""
    return f"Hardware: {_name(hardware)}; rates {hardware['rates']}{assumed}"
