"""A search's dry run: what it may propose, what it wants, what its own runs and its combinations come to."""

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

COUNTED = 256  # combinations that are built and counted


def print_search_dry_run(search: Search, folder: Path, options: RunOptions, console: Console) -> int:
    """Prints it; nothing is written. The exit code."""
    from bench.config import describe

    found = combinations(search)
    if options.json:
        told = {"definition": search.definition, "objectives": [asdict(o) for o in search.objectives],
                "trials": search.trials, "sampler": search.sampler, "seed": search.seed, "combinations": found,
                "runs": describe(search.sweep)}  # fmt: skip
        print(json.dumps(told, indent=1, ensure_ascii=False))
        return DONE
    dry_run.print_dry_run(search.sweep, search.sweep.runs, False, console, options.results)
    table = Table(title=f"proposed by {search.sampler}, seed {search.seed}: {search.trials} trials")
    table.add_column("field")
    table.add_column("values")
    for field in search.fields:
        table.add_row(escape(field.name), escape(_values(field)))
    console.print(table)
    lines = [f"{o.better} {o.title}: {o.definition}" for o in search.objectives]
    rows = read_lines(folder / "trials.jsonl")
    states = [run_folder(options.results, row["id"]).status().state for row in rows if row["kind"] == "trial"]
    for text in [_counted(found), *lines, f"{states.count(State.DONE)} of {search.trials} trials are done in {folder}"]:
        console.print(escape(text), highlight=False, soft_wrap=True)
    return DONE


def combinations(search: Search) -> dict[str, Any]:
    """Of the choices, ranges at their lower ends: how many there are; up to COUNTED of them are resolved, which tells
    how many break a rule and how large models become."""
    from bench.config.describe import count
    from bench.config.search_space import Choices

    sizes = [range(len(f.options)) if isinstance(f, Choices) else [f.low] for f in search.fields]
    points = list(itertools.islice(itertools.product(*sizes), COUNTED))
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


def _counted(found: dict[str, Any]) -> str:
    from bench.analysis.formatting import millions

    ranges = "" if found["all"] else " of the choices, ranges at their lower ends"
    text = f"{found['resolved']} combinations{ranges}: {found['distinct']} distinct runs"
    if found["parameters"]:
        least, most = map(millions, found["parameters"])
        text += f", {least} to {most} parameters"
    broken = [f"\n{count} break a rule and would not be run: {problem}" for problem, count in found["refused"].items()]
    return text + "".join(broken)


def _values(field: Proposed) -> str:
    told = field.to_dict()
    if isinstance(told, dict):
        return f"{told['low']:g} … {told['high']:g}, {'logarithmic' if told['log'] else 'uniform'}"
    return "; ".join(" + ".join(_text(value) for value in option.values()) for option in told)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        rest = ", ".join(f"{key} {item}" for key, item in value.items() if key != "name")
        return f"{value.get('name', '')} ({rest})" if rest else str(value.get("name", ""))
    return str(value)
