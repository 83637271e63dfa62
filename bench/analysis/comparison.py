"""Results of several folders against the first one's: after a change of code, on another machine, of another sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.analysis.answers import FIELDS, METHOD, PRINTED_METRICS, Comparison, cells, scores_of
from bench.analysis.differences import Scores, paired_difference
from bench.analysis.formatting import HEADINGS, FormattedTable
from bench.analysis.sweep_results import (
    CachedRunFolder,
    SweepRun,
    group_names,
    metrics_of_runs,
    read_sweep,
    resolved_fields,
)
from bench.analysis.table_rows import measurements
from bench.analysis.variants import field_differences, short_names
from bench.common.errors import UserError
from bench.common.json_files import read_json
from bench.runs.folder import runs_folder
from bench.runtime import provenance


@dataclass(frozen=True)
class Source:
    """One folder of results."""

    path: Path
    runs: tuple[SweepRun, ...]

    def groups(self) -> dict[str, list[SweepRun]]:
        """setting → its seeds."""
        groups: dict[str, list[SweepRun]] = {}
        for run in self.runs:
            groups.setdefault(run.group, []).append(run)
        return groups

    @property
    def commits(self) -> str:
        """Of all stages of its runs."""
        return ", ".join(provenance.by_commit({run.label: run.provenance for run in self.runs})) or "no commit recorded"


def read_source(path: Path) -> Source:
    """A sweep's folder, a run's (also an archived one), a results folder, or a folder of runs such as results/archive.

    Of runs that were archived several times the last counts. Raises UserError for anything else.
    """
    if (path / "sweep.json").is_file():
        return Source(path, read_sweep(path, path.resolve().parent).runs)
    folders = [path] if (path / "spec.json").is_file() else []
    for parent in (runs_folder(path), path):
        folders = folders or [spec.parent for spec in sorted(parent.glob("*/spec.json"), key=_archive_order)]
    if not folders:
        raise UserError(f"{path} has no results: name a sweep's folder, a run's, results/ or results/archive")
    lines = {line["id"]: line | {"folder": folder} for folder in folders for line in [_line(folder)]}
    groups = group_names(lines)
    return Source(path, tuple(SweepRun(run_id, line["label"], line, CachedRunFolder(line["folder"]), groups[run_id])
                              for run_id, line in lines.items()))  # fmt: skip


def _archive_order(spec: Path) -> tuple[str, int]:
    """By id and number of the archive, results/archive/<id>.<n>."""
    run_id, _, number = spec.parent.name.partition(".")
    return run_id, int(number) if number.isdigit() else 0


def _line(folder: Path) -> dict[str, Any]:
    """A run's spec.json as a line of runs.jsonl."""
    record = read_json(folder / "spec.json")
    seed = record["spec"]["seed"]
    label = record.get("label", record["id"])
    return {"id": record["id"], "label": label, "spec": record["spec"], "seed": seed,
            "settings": {"seed": seed} if f"seed {seed}" in label else {}}  # fmt: skip


def matching_settings(reference: Source, other: Source) -> list[tuple[str, list[SweepRun], list[SweepRun]]]:
    """(label, runs of the reference, runs of the other) of the runs with the same ids, else of the settings with the
    same labels; two folders of one setting each are matched as they are. Raises UserError where nothing matches."""
    by_id = {run.id: run for run in other.runs}
    if same := tuple(run for run in reference.runs if run.id in by_id):
        groups = Source(reference.path, same).groups()
        return [(label, runs, [by_id[run.id] for run in runs]) for label, runs in groups.items()]
    groups, others = reference.groups(), other.groups()
    if labels := [label for label in groups if label in others]:
        return [(label, groups[label], others[label]) for label in labels]
    if len(groups) == len(others) == 1:
        ((label, runs),), ((name, other_runs),) = groups.items(), others.items()
        return [(f"{label} / {name}", runs, other_runs)]
    raise UserError(
        f"{other.path} has no id and no label of {reference.path}: {'; '.join(others)} against {'; '.join(groups)}; "
        "name two folders of single runs, results/runs/ID, to compare those"
    )


def compare_sources(sources: Sequence[Source], protocol: str | None = None) -> FormattedTable:
    """Each source minus the first, setting by setting; `protocol`: name@version, by default the first that both have.

    Raises UserError where nothing can be compared.
    """
    reference, comparisons, notes = sources[0], list[Comparison](), dict[str, None]()
    metrics: dict[str, dict[str, str]] = {}
    for other in sources[1:]:
        for label, runs, others in matching_settings(reference, other):
            keys = [protocol] if protocol else _common_protocols(runs, others)
            key = next(iter(keys), "")
            metrics |= {m["name"]: m for m in metrics_of_runs([*runs, *others], key) if m["name"] in PRINTED_METRICS}
            quality = {name: (scores_of(others, key, name), scores_of(runs, key, name)) for name in metrics}
            costs = {name: (_measured(others, name), _measured(runs, name)) for name in HEADINGS}
            differences = {name: paired_difference([pair]) for name, pair in (quality | costs).items()}
            name = label if len(sources) == 2 else f"{label} ({other.path.name})"
            comparisons.append(Comparison("variant", name, label, _spec_differences(others[0], runs[0]), differences))
            notes |= dict.fromkeys(_scene_notes(label, runs, others, key))
    if not any(difference for comparison in comparisons for difference in comparison.differences.values()):
        raise UserError("nothing to compare: no matching runs have results of one protocol or a profile")
    measured = [{"name": name, "heading": heading, "better": "lower"} for name, heading in HEADINGS.items()]
    commits = [f"{source.path}: {source.commits}." for source in sources]
    title = f"Differences from {reference.path}: {', '.join(str(source.path) for source in sources[1:])}"
    return FormattedTable(title, cells(comparisons, [*metrics.values(), *measured]), [*METHOD, *notes, *commits], [],
                          ("", FIELDS))  # fmt: skip


def _common_protocols(runs: Sequence[SweepRun], others: Sequence[SweepRun]) -> list[str]:
    keys = [dict.fromkeys(key for run in side for key in run.folder.evaluations()) for side in (runs, others)]
    return [key for key in keys[0] if key in keys[1]]


def _measured(runs: Sequence[SweepRun], name: str) -> Scores:
    """A measurement belongs to no scene."""
    values = {i if run.seed is None else run.seed: measurements(run)[name] for i, run in enumerate(runs)}
    return {seed: {"": value} for seed, value in values.items() if value is not None}


def _spec_differences(run: SweepRun, reference: SweepRun) -> str:
    """Fields of the specs, without the seed."""
    fields, usual = (resolved_fields(r.line.get("spec", {})) for r in (run, reference))
    differences = field_differences(fields, usual, [], all_swept=True)
    names = short_names([difference.field for difference in differences])
    return ", ".join(difference.describe(names[difference.field]) for difference in differences)


def _scene_notes(label: str, runs: Sequence[SweepRun], others: Sequence[SweepRun], protocol: str) -> list[str]:
    scenes = [{scene for run in side for scene in run.folder.evaluations().get(protocol, {}).get("scenes", ())}
              for side in (runs, others)]  # fmt: skip
    if scenes[0] == scenes[1]:
        return []
    common = len(scenes[0] & scenes[1])
    return [
        f"{label}: evaluated on different scenes ({len(scenes[0])}, {len(scenes[1])}); compared on {common} of both."
    ]
