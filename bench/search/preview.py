"""Dry run of a search: its space and objectives, its own runs, and the number and size of its combinations."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.common.errors import ConfigError
from bench.common.exit_codes import DONE
from bench.common.json_files import read_lines
from bench.execution import dry_run
from bench.runs.folder import run_folder
from bench.runs.states import State

if TYPE_CHECKING:
    from bench.config.search_section import Search
    from bench.config.search_space import Proposed
    from bench.execution.options import RunOptions

MAX_RESOLVED = 256  # combinations that are resolved and counted


def print_search_dry_run(search: Search, folder: Path, options: RunOptions, console: Console) -> int:
    """Print the dry run; an exit code."""
    from bench.config import describe

    counts = count_combinations(search)
    if options.json:
        content = {"definition": search.definition, "objectives": [asdict(o) for o in search.objectives],
                   "trials": search.trials, "sampler": search.sampler, "seed": search.seed, "combinations": counts,
                   "runs": describe(search.sweep)}  # fmt: skip
        print(json.dumps(content, indent=1, ensure_ascii=False))
        return DONE
    dry_run.print_dry_run(search.sweep, search.sweep.runs, False, console, folder)
    table = Table(title=f"proposed by {search.sampler}, seed {search.seed}: {search.trials} trials")
    table.add_column("field")
    table.add_column("values")
    for field in search.fields:
        table.add_row(escape(field.name), escape(_values(field)))
    console.print(table)
    lines = [f"{o.better} {o.title}: {o.definition}" for o in search.objectives]
    rows = read_lines(folder / "trials.jsonl")
    states = [run_folder(options.results, row["id"]).status().state for row in rows if row["kind"] == "trial"]
    for text in [
        _format_counts(counts),
        *lines,
        f"{states.count(State.DONE)} of {search.trials} trials are done in {folder}",
    ]:
        console.print(escape(text), highlight=False, soft_wrap=True)
    return DONE


def count_combinations(search: Search) -> dict[str, Any]:
    """Combinations of the choices, ranges at their lower bounds: how many there are, how many of the first MAX_RESOLVED
    are distinct runs, which rules the others break, and the smallest and largest number of parameters."""
    from bench.config.describe import count
    from bench.config.search_space import Choices

    sizes = [range(len(f.options)) if isinstance(f, Choices) else [f.low] for f in search.fields]
    points = list(itertools.islice(itertools.product(*sizes), MAX_RESOLVED))
    runs, refused = {}, dict[str, int]()
    for point in points:
        try:
            run = search.resolve(dict(zip([f.name for f in search.fields], point, strict=True)))
            runs[run.id] = run
        except ConfigError as error:
            refused[error.problems[0]] = refused.get(error.problems[0], 0) + 1
    parameters = [count(run.spec.model)["total"] for run in runs.values()]
    return {"all": search.combinations, "resolved": len(points), "distinct": len(runs), "refused": refused,
            "parameters": [min(parameters), max(parameters)] if parameters else None}  # fmt: skip


def _format_counts(counts: dict[str, Any]) -> str:
    from bench.analysis.formatting import millions

    ranges = "" if counts["all"] else " of the choices, ranges at their lower bounds"
    text = f"{counts['resolved']} combinations{ranges}: {counts['distinct']} distinct runs"
    if counts["parameters"]:
        least, most = map(millions, counts["parameters"])
        text += f", {least} to {most} parameters"
    invalid = [f"\n{count} break a rule and would not be run: {rule}" for rule, count in counts["refused"].items()]
    return text + "".join(invalid)


def _values(field: Proposed) -> str:
    content = field.to_dict()
    if isinstance(content, dict):
        return f"{content['low']:g} … {content['high']:g}, {'logarithmic' if content['log'] else 'uniform'}"
    return "; ".join(" + ".join(_format_value(value) for value in option.values()) for option in content)


def _format_value(value: Any) -> str:
    if isinstance(value, dict):
        rest = ", ".join(f"{key} {item}" for key, item in value.items() if key != "name")
        return f"{value.get('name', '')} ({rest})" if rest else str(value.get("name", ""))
    return str(value)
