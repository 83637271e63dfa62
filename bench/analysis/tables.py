"""Table 3 of any sweep: quality, parameters, memory and time of its runs beside baselines → CSV, Markdown, LaTeX.

A number here is read from a run's JSON; what is missing is an empty cell with the run's status; what every row lacks is
a column of the CSV alone. Its columns `measured/…` depend on the machine: leave them out to compare tables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.analysis import answers, cost, number_of_views, pretraining, remarks, systematization
from bench.analysis.formatting import (
    ARROWS,
    DAGGER,
    HEADINGS,
    PARAMETERS,
    FormattedTable,
    format_number,
    markdown,
    millions,
    terminal,
)
from bench.analysis.paper_table import paper_table
from bench.analysis.sweep_results import SweepResults, protocol_metrics, read_sweep
from bench.analysis.table_rows import MEASURED, TableRow, format_cell, table_rows
from bench.common.files import atomic_write_text, remove_files

WRITTEN = re.compile(  # names of the files of `write`
    r"((answers|table)(_\w+@\d+\w*)?\.(csv|md|tex))|((table1|number_of_views)(_\w+@\d+\w*)?\.(csv|md))|cost\.(csv|md)"
)


def write(sweep_folder: Path, results: Path) -> list[Path]:
    """tables/answers.{csv,md,tex}, where there is something to compare, tables/table.{csv,md,tex} and, where models
    differ as the paper's Table 1 does, tables/table1.{csv,md} and, where they were evaluated with several numbers of
    views, tables/number_of_views.{csv,md} for the first protocol; answers_<protocol>@<version>.* and so on for others;
    where steps were profiled, tables/cost.{csv,md}. Files that hold the same already are not touched; those of
    these names that the sweep no longer has are removed. Returns all."""
    sweep = read_sweep(sweep_folder, results)
    by_name = {f"cost.{suffix}": text for suffix, text in cost.render(sweep).items()}
    for i, protocol in enumerate(sweep.protocols() or [""]):
        by_stem = {"answers": answers.render(sweep, protocol), "table": render(sweep, protocol),
                   "table1": systematization.render(sweep, protocol),
                   "number_of_views": number_of_views.render(sweep, protocol)}  # fmt: skip
        for stem, texts in by_stem.items():
            by_name |= {f"{stem}{f'_{protocol}' if i else ''}.{suffix}": text for suffix, text in texts.items()}
    written = {sweep_folder / "tables" / name: text for name, text in by_name.items()}
    for path, text in written.items():
        if not path.is_file() or path.read_bytes() != text.encode():
            atomic_write_text(path, text)
    if not (sweep.summary_only or sweep.lacks_runs):
        names = {path.name for path in (sweep_folder / "tables").iterdir()}
        remove_files(sweep_folder / "tables", filter(WRITTEN.fullmatch, names - by_name.keys()))
    return list(written)


def terminal_summary(sweep_folder: Path, results: Path) -> str:
    """The answer, the result table and Table 1 of the first protocol, as far as they apply, for a terminal."""
    sweep = read_sweep(sweep_folder, results)
    protocol = next(iter(sweep.protocols()), "")
    formatted = (
        answers.build_answers(sweep, protocol),
        build_table(sweep, protocol),
        systematization.build(sweep, protocol),
    )
    return "\n".join(terminal(table) for table in formatted if table)


def build_table(sweep: SweepResults, protocol: str) -> FormattedTable:
    """The table of one protocol's results."""
    rows, metrics = table_rows(sweep, protocol), protocol_metrics(sweep, protocol)
    definitions = remarks.definitions(sweep, metrics) + ([pretraining.DEFINITION] if _pretrained(rows) else [])
    return FormattedTable(remarks.caption(sweep, protocol), _cells(rows, metrics),
                          remarks.remarks(sweep, protocol, rows), definitions)  # fmt: skip


def render(sweep: SweepResults, protocol: str) -> dict[str, str]:
    """{"csv", "md", "tex"}: the table's text in each format."""
    numbers = frame(table_rows(sweep, protocol), protocol_metrics(sweep, protocol))
    return {
        "csv": numbers.to_csv(index=False),
        "md": markdown(build_table(sweep, protocol)),
        "tex": paper_table(sweep, protocol),
    }


def frame(rows: Sequence[TableRow], metrics: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    """Numbers as they are, a column each; measured ones last."""
    lines = []
    for row in rows:
        line: dict[str, Any] = {"label": row.label, "kind": row.kind, "status": row.status}
        line["seeds"] = max(map(len, row.values.values()), default=0) if row.kind == "run" else None
        for metric in metrics:
            line[metric["name"]] = row.mean(metric["name"])
            line[f"{metric['name']}_sd"] = row.deviation(metric["name"])
        for part in ("encoder", "aggregator", "head", "total"):
            line[f"parameters_{part}"] = (row.parameters or {}).get(part)
        if _pretrained(rows):
            line[pretraining.COLUMN] = row.mean(pretraining.COLUMN)
        line["not_beaten"] = "; ".join(row.baselines_not_exceeded)
        line |= {f"measured/{name}": row.mean(name) for name in MEASURED}
        lines.append(line)
    whole = ["seeds", *(f"parameters_{part}" for part in ("encoder", "aggregator", "head", "total"))]
    return pd.DataFrame(lines).astype(dict.fromkeys(whole, "Int64"))


def _cells(rows: Sequence[TableRow], metrics: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    """A line a row; without columns in which no row has anything, as GPU memory of a CPU."""
    lines = []
    for row in rows:
        line = {"": row.label + (f" {DAGGER}" if row.baselines_not_exceeded else "")}
        for metric in metrics:
            line[metric["heading"] + ARROWS[metric["better"]]] = format_cell(row, metric["name"])
        line[PARAMETERS] = millions((row.parameters or {}).get("total"))
        line |= {heading: format_cell(row, name) for name, heading in HEADINGS.items()}
        line[pretraining.HEADING] = format_number(pretraining.COLUMN, row.mean(pretraining.COLUMN))
        line["Status"] = row.status if row.kind == "run" else row.kind
        lines.append(line)
    cells = pd.DataFrame(lines)
    return cells.loc[:, (cells != "").any()]


def _pretrained(rows: Sequence[TableRow]) -> bool:
    """Whether any run starts from something whose training was counted."""
    return any(pretraining.COLUMN in row.values for row in rows)
