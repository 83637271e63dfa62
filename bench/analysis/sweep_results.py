"""A sweep's results as tables and figures want them: its runs in order, seeds of one setting together."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

from bench.common.errors import UserError
from bench.common.json_files import read_json, read_lines
from bench.runs.folder import RunFolder, runs_folder


class CachedRunFolder(RunFolder):
    """A run's folder, whose large files are read once, however often a table or figure asks."""

    def metrics(self) -> list[dict[str, Any]]:
        return self._metrics

    def evaluations(self) -> dict[str, dict[str, Any]]:
        return self._evaluations

    def profiles(self) -> dict[str, dict[str, Any]]:
        return self._profiles

    @cached_property
    def _metrics(self) -> list[dict[str, Any]]:
        return super().metrics()

    @cached_property
    def _evaluations(self) -> dict[str, dict[str, Any]]:
        return super().evaluations()

    @cached_property
    def _profiles(self) -> dict[str, dict[str, Any]]:
        return super().profiles()


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep: its line of runs.jsonl and its folder, which may lack any stage."""

    id: str
    label: str
    line: Mapping[str, Any]
    folder: RunFolder
    group: str  # the name that it shares with the other seeds of its setting

    @property
    def provenance(self) -> Mapping[str, Mapping[str, Any]]:
        """{stage: which code and machine produced it}; of a summary, whose runs are not here, as it recorded it."""
        recorded: Mapping[str, Any] = self.line.get("provenance", {})
        return self.folder.provenance() if self.folder.path.is_dir() else recorded

    @property
    def state(self) -> str:
        return self.folder.status().state

    @property
    def seed(self) -> int | None:
        """Of training, as resolved; of sweeps that recorded no seed, the swept one."""
        seed: int | None = self.line.get("seed", self.line.get("settings", {}).get("seed"))
        return seed


@dataclass(frozen=True)
class SweepResults:
    """What a sweep's folder and its runs' folders hold."""

    folder: Path
    results: Path  # where runs/ lies
    sweep: Mapping[str, Any]  # sweep.json
    environment: Mapping[str, Any]  # environment.json
    runs: tuple[SweepRun, ...]

    @property
    def name(self) -> str:
        """That which `--name` gave it, else the spec's."""
        return str(self.sweep.get("folder_name") or self.sweep["name"])

    @property
    def scale(self) -> str:
        return str(self.sweep["scale"])

    @property
    def summary_only(self) -> bool:
        """Whether no run's folder is here: tables and figures are then taken as they were written."""
        return not any(run.folder.path.is_dir() for run in self.runs)

    @property
    def lacks_runs(self) -> bool:
        """Whether the folder of a run that was done is not here: what was written of it cannot be written again."""
        return any(run.line.get("status") == "done" and not run.folder.path.is_dir() for run in self.runs)

    def groups(self) -> dict[str, list[SweepRun]]:
        """label → its seeds, in the sweep's order."""
        groups: dict[str, list[SweepRun]] = {}
        for run in self.runs:
            groups.setdefault(run.group, []).append(run)
        return groups

    @cached_property
    def fields(self) -> dict[str, dict[str, Any]]:
        """setting → its resolved spec as dotted fields, without the seed; of a summary those that it records."""
        return {label: _resolved_fields(runs[0]) for label, runs in self.groups().items()}

    @property
    def studies_cost(self) -> bool:
        """Whether all runs have `study: cost`: they are hardly trained, so no quality of theirs is shown."""
        return bool(self.runs) and all(run.line.get("spec", {}).get("study") == "cost" for run in self.runs)

    def protocols(self) -> list[str]:
        """The keys under which any run has been evaluated, the specs' own order first; none for a study of cost."""
        if self.studies_cost:
            return []
        return list(dict.fromkeys(key for run in self.runs for key in run.folder.evaluations()))


def read_sweep(sweep_folder: Path, results: Path) -> SweepResults:
    """Raises UserError for a folder without sweep.json and for damaged files."""
    if not (sweep_folder / "sweep.json").is_file():
        raise UserError(f"{sweep_folder} is not a sweep's folder: it has no sweep.json (name results/<spec>_<scale>)")
    environment = sweep_folder / "environment.json"
    return SweepResults(
        folder=sweep_folder,
        results=results,
        sweep=read_json(sweep_folder / "sweep.json"),
        environment=read_json(environment) if environment.is_file() else {},
        runs=sweep_runs(read_lines(sweep_folder / "runs.jsonl"), runs_folder(results)),
    )


def sweep_runs(lines: Sequence[Mapping[str, Any]], runs: Path) -> tuple[SweepRun, ...]:
    """The runs of these lines of runs.jsonl, whose folders lie in `runs`."""
    by_id = {line["id"]: line for line in lines}
    groups = group_names(by_id)
    return tuple(
        SweepRun(run_id, line["label"], line, CachedRunFolder(runs / run_id), groups[run_id])
        for run_id, line in by_id.items()
    )


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields → dotted ones."""
    fields: dict[str, Any] = {}
    for name, value in values.items():
        nested = isinstance(value, Mapping) and value
        fields |= flatten(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return fields


def resolved_fields(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved spec's dotted fields, without the training seed; what a part starts from is one field of text."""
    init = {part: _source(value) for part, value in spec.get("init", {}).items()}
    return {key: value for key, value in flatten({**spec, "init": init}).items() if key != "seed"}


def _source(init: Any) -> Any:
    """`scratch`, `run NAME`, `shipped NAME` or the name of a file of weights."""
    if not isinstance(init, Mapping):
        return init
    kind = next((kind for kind in ("run", "shipped") if kind in init), "weights")
    return PurePath(init[kind]).name if kind == "weights" else f"{kind} {init[kind]}"


def _resolved_fields(run: SweepRun) -> dict[str, Any]:
    line = run.line
    spec = line.get("spec") or (run.folder.spec() if (run.folder.path / "spec.json").is_file() else None)
    if spec is not None:
        return resolved_fields(spec)
    parts = {f"model.{part}.name": name for part, name in (line.get("model") or {}).items()}
    return parts | {key: line[name] for key, name in (("data.name", "data"), ("train.steps", "steps")) if name in line}


def group_names(lines: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Run id → the name of its group, from the lines of runs.jsonl by id.

    Runs whose specs differ in nothing but the training seed are one group, named as the first of them without its seed.
    """
    keys = {run_id: _setting(line, lines) for run_id, line in lines.items()}
    first = {key: lines[run_id] for run_id, key in reversed(keys.items())}
    names = {key: _without_seed(line) for key, line in first.items()}
    shared = {name for name, count in Counter(names.values()).items() if count > 1}
    return {run_id: first[key]["label"] if names[key] in shared else names[key] for run_id, key in keys.items()}


def _setting(line: Mapping[str, Any], lines: Mapping[str, Mapping[str, Any]]) -> str:
    """A run's spec without its training seed, as text; a run that it starts from counts by its setting, too.

    A sweep recorded before specs were gives the label without the seed.
    """
    if "spec" not in line:
        return _without_seed(line)
    spec = {key: value for key, value in line["spec"].items() if key != "seed"}
    spec["init"] = {
        part: _setting(lines[init["id"]], lines) if isinstance(init, Mapping) and init.get("id") in lines else init
        for part, init in spec.get("init", {}).items()
    }
    return json.dumps(spec, sort_keys=True)


def _without_seed(line: Mapping[str, Any]) -> str:
    """The label without the training seed, where the sweep names one; `data.seed` stays."""
    label: str = line["label"]
    if "seed" not in line.get("settings", {}):
        return label
    seed = f"seed {line['settings']['seed']}"
    return ", ".join(part for part in label.split(", ") if part != seed).removesuffix(f": {seed}") or "all seeds"


def protocol_metrics(sweep: SweepResults, protocol: str) -> list[dict[str, str]]:
    """Name, heading, better, unit and definition of each metric, as the protocol in the results defines them."""
    return metrics_of_runs(sweep.runs, protocol)


def metrics_of_runs(runs: Sequence[SweepRun], protocol: str) -> list[dict[str, str]]:
    """The same for any runs; empty where none was evaluated under the protocol. Optional ones only where a run has a
    value."""
    evaluations = [e for run in runs if (e := run.folder.evaluations().get(protocol))]
    metrics = evaluations[0]["protocol"]["metrics"] if evaluations else []
    measured = {name for evaluation in evaluations for name in evaluation["means"]}
    return [metric for metric in metrics if metric["name"] in measured or not metric.get("optional")]
