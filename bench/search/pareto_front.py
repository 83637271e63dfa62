"""Results of a search: its rows, the Pareto front, and the tables and specs of the front."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
from ruamel.yaml import YAML

from bench.analysis.formatting import DECIMALS, millions
from bench.analysis.latex import latex, reference
from bench.analysis.remarks import TINY
from bench.common.files import atomic_write, atomic_write_text
from bench.common.json_files import write_json
from bench.common.labels import file_name, markdown
from bench.config.objectives import Objective, dominates
from bench.runs.folder import run_folder

if TYPE_CHECKING:
    from bench.config.search_section import Search

Kind = Literal["reference", "trial", "repeat", "invalid"]
ARROWS = {"higher": " ↑", "lower": " ↓"}


@dataclass(frozen=True)
class ParetoRow:
    """One of the spec's own runs ("reference") or a proposal. A "repeat" is the run of an earlier row; an "invalid" one
    breaks a rule and is no run."""

    number: int | None  # of the proposal; None for the spec's own
    label: str
    kind: Kind
    id: str
    state: str
    message: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)  # objective → value; empty unless all are known
    proposed: Mapping[str, Any] = field(default_factory=dict)  # as Search.resolve takes it


def nondominated_rows(rows: Sequence[ParetoRow], objectives: Sequence[Objective]) -> list[ParetoRow]:
    """The Pareto front, repeats left out, sorted by the last objective first."""
    runs = [row for row in rows if row.values and row.kind in ("reference", "trial")]
    points = [[row.values[objective.name] for objective in objectives] for row in runs]
    front = [
        row
        for row, point in zip(runs, points, strict=True)
        if not any(dominates(other, point, objectives) for other in points)
    ]
    return sorted(front, key=lambda row: [row.values[objective.name] for objective in reversed(objectives)])


def write(folder: Path, search: Search, rows: Sequence[ParetoRow], results: Path) -> list[Path]:
    """Write search.json, trials.jsonl, tables/front.{csv,md,tex} and front/NAME.yaml in place of an earlier front."""
    front = nondominated_rows(rows, search.objectives)
    notes = _notes(search, rows, results)
    content = {"definition": search.definition, "protocol": search.protocol.key, "sampler": search.sampler,
               "seed": search.seed, "trials": search.trials, "objectives": [asdict(o) for o in search.objectives],
               "front": [row.id for row in front], "notes": notes}  # fmt: skip
    write_json(folder / "search.json", content)
    written = [write_rows(folder, rows), folder / "search.json"]
    atomic_write(folder / "front", lambda target: _write_specs(target, folder, search, front))
    for suffix, text in _tables(search, front, notes).items():
        written.append(folder / "tables" / f"front.{suffix}")
        atomic_write_text(written[-1], text)
    return [*written, *sorted((folder / "front").glob("*.yaml"))]


def write_rows(folder: Path, rows: Sequence[ParetoRow]) -> Path:
    """trials.jsonl, one line per row."""
    atomic_write_text(
        folder / "trials.jsonl", "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
    )
    return folder / "trials.jsonl"


def spec_name(row: ParetoRow, search: Search) -> str:
    """File name of a front member's spec, without suffix."""
    return file_name(row.label if row.number is None else f"{search.sweep.name} {row.number:03d}")


def formatted(objective: Objective, value: float) -> str:
    """The value as tables print it."""
    if objective.source == "count":
        return millions(int(value))
    return f"{value:.{DECIMALS.get(objective.name, 2)}f}"


def _tables(search: Search, front: Sequence[ParetoRow], notes: Sequence[str]) -> dict[str, str]:
    formatted_rows, plain_rows = [], []
    for row in front:
        values = {o: row.values[o.name] for o in search.objectives}
        cells = {o.title + ARROWS[o.better]: formatted(o, value) for o, value in values.items()}
        formatted_rows.append({"": row.label, **cells, "Run": row.id, "Spec": f"front/{spec_name(row, search)}.yaml"})
        plain_rows.append({"label": row.label, "kind": row.kind, "number": row.number, "id": row.id, **row.values,
                           **{key: json.dumps(value) for key, value in row.settings.items()}})  # fmt: skip
    table = pd.DataFrame(formatted_rows or [{"": "no run has a result yet"}])
    title = f"Pareto front of {search.sweep.name} at scale {search.sweep.scale}: {_directions(search)}"
    escaped = table.assign(**{"": [markdown(row.label) for row in front]}) if front else table
    pipe_table = escaped.to_markdown(index=False, disable_numparse=True)
    body = "\n".join(f"- {note}" for note in notes)
    return {
        "csv": pd.DataFrame(plain_rows).to_csv(index=False),
        "md": f"**{title}**\n\n{pipe_table}\n\n{body}\n",
        "tex": latex(table, f"{title}.", notes, reference(f"{search.sweep.name}-front")),
    }


def _directions(search: Search) -> str:
    return ", ".join(f"{o.heading} {'maximized' if o.better == 'higher' else 'minimized'}" for o in search.objectives)


def _notes(search: Search, rows: Sequence[ParetoRow], results: Path) -> list[str]:
    """Definitions of the objectives, and how many proposals became trials."""
    kinds = [row.kind for row in rows]
    trials = [row for row in rows if row.kind == "trial"]
    failed = [f"{row.label}: {row.state}" for row in trials if row.state != "done"]
    steps = dict.fromkeys(run.spec.train.steps for run in search.sweep.runs)
    notes = [TINY] if search.sweep.scale == "tiny" else []
    notes.append(
        f"{len(trials)} trials of sampler {search.sampler} and {kinds.count('reference')} runs of the spec's own"
        + (f", {' or '.join(map(str, steps))} steps each" if steps else "")
        + f"; {kinds.count('repeat')} proposals repeated a run and {kinds.count('invalid')} broke a rule."
    )
    notes += [f"Without a result: {'; '.join(failed)}."] if failed else []
    for objective in search.objectives:
        notes.append(f"{objective.heading}: {_definition(objective, rows, results)}.")
    return notes


def _definition(objective: Objective, rows: Sequence[ParetoRow], results: Path) -> str:
    """Of the objective; for a measurement that of the profiles, with the devices on which they were taken."""
    if objective.source != "profile":
        return objective.definition
    profiles = [p for row in rows if row.values for p in list(run_folder(results, row.id).profiles().values())[:1]]
    if not profiles:
        return objective.definition
    devices = dict.fromkeys(f"{profile['device']} with {profile['threads']} threads" for profile in profiles)
    mixed = "; NOT comparable between these machines" if len(devices) > 1 else ""
    definition = profiles[0]["definitions"][objective.name]
    return f"{definition}; one noisy measurement per run, on {' and '.join(devices)}{mixed}"


def _write_specs(folder: Path, sweep_folder: Path, search: Search, front: Sequence[ParetoRow]) -> None:
    """One spec per member: the search's own settings, and the member's choices mapped to each scale."""
    folder.mkdir()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.width = None, 120
    for row in front:
        path = folder / f"{spec_name(row, search)}.yaml"
        with path.open("w", encoding="utf-8") as file:
            file.write(_header(row, search, sweep_folder / "front" / path.name))
            spec = search.spec_run_member(row.label) if row.number is None else search.member(row.proposed)
            yaml.dump(spec, file)
        if own := search.local_base_file(spec["base"]):
            (folder / "base").mkdir(exist_ok=True)
            shutil.copyfile(own, folder / "base" / own.name)


def _header(row: ParetoRow, search: Search, path: Path) -> str:
    values = ", ".join(f"{o.heading} {formatted(o, row.values[o.name])}" for o in search.objectives)
    return (
        f"# On the front of {search.sweep.name} at scale {search.sweep.scale} ({values}): {row.label}. "
        "Does it hold at another scale?\n"
        f"# python -m bench.run {path} --scale paper --dry-run\n"
    )
