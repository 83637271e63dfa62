"""A sweep's results as a table for a two-column article: chosen columns, best and second best marked, notes below."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.analysis import remarks
from bench.analysis.formatting import ARROWS, DAGGER, HEADINGS, PARAMETERS, format_number, millions
from bench.analysis.latex import environment, reference
from bench.analysis.sweep_results import SweepResults, protocol_metrics
from bench.analysis.table_rows import TableRow, table_rows
from bench.common import labels
from bench.common.errors import UserError

DEFAULT_COLUMNS = ("psnr", "psnr_foreground", "ssim", "lpips_vgg", "parameters", "reserved_peak_memory_gib",
                   "step_time_ms")  # fmt: skip
PARAMETER_COLUMNS = {"parameters": "total", "parameters_encoder": "encoder", "parameters_aggregator": "aggregator",
                     "parameters_head": "head"}  # fmt: skip
NOT_APPLICABLE = "--"  # to a baseline; what is missing of a run is an empty cell
NOT_PRINTED = ("--force", " is missing: ", remarks.TINY)  # notes for those who work with the runs


@dataclass(frozen=True)
class Column:
    """One quantity: its heading as plain text, a cell a row as LaTeX, and its number a row (nan: none)."""

    name: str
    heading: str
    better: str  # "higher", "lower" or "none"
    cells: Sequence[str]
    values: Sequence[float]


def paper_table(sweep: SweepResults, protocol: str, columns: Sequence[str] = ()) -> str:
    """LaTeX; `columns`: names of metrics and measurements, by default DEFAULT_COLUMNS as far as they are there.

    Empty columns are dropped; constant ones go to the notes. Raises UserError for unknown names.
    """
    rows, metrics = table_rows(sweep, protocol), {m["name"]: m for m in protocol_metrics(sweep, protocol)}
    known = [*metrics, *PARAMETER_COLUMNS, *HEADINGS, "seeds"]
    if unknown := [name for name in columns if name not in known]:
        raise UserError(f"--columns {', '.join(unknown)}: no such column; choose from {', '.join(known)}")
    runs = [i for i, row in enumerate(rows) if row.kind == "run"]
    chosen = [_column(name, rows, metrics) for name in columns or DEFAULT_COLUMNS if name in known]
    chosen = [column for column in chosen if any(column.cells)]
    constant = {column.name: column for column in chosen if len(runs) > 1 and _is_constant(column, runs, len(rows))}
    varying = [column for column in chosen if column.name not in constant]
    marked = [_mark(column, runs) for column in varying]
    cells = [[labels.latex(row.label) + (rf" {labels.latex(DAGGER)}" if row.baselines_not_exceeded else ""),
              *(column[i] or ("" if row.kind == "run" else NOT_APPLICABLE) for column in marked)]
             for i, row in enumerate(rows)]  # fmt: skip
    notes = [f"{column.heading}: {column.cells[runs[0]]} in every run." for column in constant.values()]
    notes = [
        *map(labels.latex, notes),
        *_notes(sweep, protocol, rows, any(r"\textbf" in c for row in cells for c in row), [c.name for c in chosen]),
    ]
    title = "; ".join([remarks.subject(sweep), *remarks.evaluated_on(sweep, protocol)]) + "."
    headings = ["", *(column.heading for column in varying)]
    label = reference(f"{sweep.name}-{sweep.scale}")
    return environment(
        headings, cells, labels.latex(title), notes, label, rules=[len(runs)] if len(runs) < len(rows) else []
    )


def _column(name: str, rows: Sequence[TableRow], metrics: Mapping[str, Mapping[str, str]]) -> Column:
    if name in PARAMETER_COLUMNS:
        part = PARAMETER_COLUMNS[name]
        counts = [(row.parameters or {}).get(part) for row in rows]
        heading = PARAMETERS if part == "total" else f"{PARAMETERS} {part[0].upper()}"
        numbers = [math.nan if count is None else float(count) for count in counts]
        return Column(name, heading, "none", [millions(count) for count in counts], numbers)
    if name == "seeds":
        seeds = [max(map(len, row.values.values()), default=0) if row.kind == "run" else 0 for row in rows]
        return Column(name, "Seeds", "none", [str(count or "") for count in seeds], [math.nan] * len(rows))
    values = [row.mean(name) for row in rows]
    cells = []
    for row, value in zip(rows, values, strict=True):
        spread = format_number(name, row.deviation(name))
        cells.append(format_number(name, value) + (rf" {{\scriptsize $\pm$ {spread}}}" if spread else ""))
    if metric := metrics.get(name):
        unit = f" [{metric['unit']}]" if metric.get("unit") else ""
        return Column(name, metric["heading"] + ARROWS[metric["better"]] + unit, metric["better"], cells, values)
    return Column(name, HEADINGS[name], "lower", cells, values)


def _is_constant(column: Column, runs: Sequence[int], count: int) -> bool:
    """The same text in every run, and nothing in other rows."""
    others = set(range(count)) - set(runs)
    return len({column.cells[i] for i in runs}) == 1 and not any(column.cells[i] for i in others)


def _mark(column: Column, runs: Sequence[int]) -> list[str]:
    """Best run bold, second best underlined, by the numbers as printed."""
    printed = {i: format_number(column.name, column.values[i]) for i in runs if not math.isnan(column.values[i])}
    order = sorted(set(printed.values()), key=float, reverse=column.better == "higher")
    cells = list(column.cells)
    if column.better == "none" or len(order) < 2:
        return cells
    for i, number in printed.items():
        command = {order[0]: r"\textbf", order[1]: r"\underline"}.get(number)
        if command:
            cells[i] = cells[i].replace(number, f"{command}{{{number}}}", 1)
    return cells


def _notes(
    sweep: SweepResults, protocol: str, rows: Sequence[TableRow], marked: bool, names: Sequence[str]
) -> list[str]:
    """As LaTeX. Definitions of the metrics stand in tables/table.md and in the report."""
    notes = [r"Best run in \textbf{bold}, second best \underline{underlined}."] if marked else []
    left_out = (*NOT_PRINTED, *([] if "step_time_ms" in names else [remarks.STEP_TIMES]))
    printed = [note for note in remarks.remarks(sweep, protocol, rows) if not any(part in note for part in left_out)]
    if sweep.scale == "tiny":
        printed.insert(0, "Scale tiny: a check of the mechanics, not comparable with the paper's numbers.")
    return notes + [labels.latex(note) for note in printed]
