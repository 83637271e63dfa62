"""A dry run: what a sweep would run, how large it is, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.common import disk

if TYPE_CHECKING:
    from bench.config import Run, Sweep


def print_dry_run(sweep: Sweep, chosen: Sequence[Run], as_json: bool, console: Console, results: Path) -> None:
    """Print it, counted as the paper does; red is what would keep a run from starting."""
    from bench.analysis.formatting import millions
    from bench.config import describe

    ids = {run.id for run in chosen}
    rows = [row for row in describe(sweep) if row["id"] in ids]
    if as_json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    title = f"{' '.join([sweep.name, *sweep.overrides])}, scale {sweep.scale}: {len(rows)} runs"
    table = Table(title=escape(title), caption=escape(sweep.question))
    table.add_column("run")
    table.add_column("id", no_wrap=True)
    for heading in ("Params.", "E", "A", "D", "tokens a scene"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        counts = [millions(row["parameters"][part]) for part in ("total", "encoder", "aggregator", "head")]
        style = "red" if row["missing_files"] else None
        table.add_row(escape(row["label"]), row["id"], *counts, f"{row['tokens_per_scene']:,}", style=style)
    console.print(table)
    console.print(escape(_disk(rows, results)), highlight=False, soft_wrap=True)
    for text in dict.fromkeys(text for row in rows for text in row["missing_files"]):
        console.print(escape(text), style="red", soft_wrap=True)


def _disk(rows: Sequence[Mapping[str, Any]], results: Path) -> str:
    """What the whole sweep takes on disk, one run at a time, and what there is."""
    largest = max(row["disk_bytes"]["training"] for row in rows)
    kept = sum(row["disk_bytes"]["kept"] for row in rows)
    return (
        f"Disk: at most {disk.format_bytes(largest)} while a run trains (two checkpoints with Adam's moments), "
        f"{disk.format_bytes(kept)} kept as weights; {disk.format_bytes(disk.free_bytes(results))} free in {results}"
    )
