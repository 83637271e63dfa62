"""A sweep's results as tables and figures want them: its runs in order, seeds of one setting together."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class SweepResults:
    """What a sweep's folder and its runs' folders hold."""

    sweep: Mapping[str, Any]
    environment: Mapping[str, Any]
    entries: tuple[SweepRun, ...]

    @property
    def scale(self) -> str:
        return str(self.sweep["scale"])

    def groups(self) -> dict[str, list[SweepRun]]:
        """label → its seeds, in the sweep's order."""
        found: dict[str, list[SweepRun]] = {}
        for entry in self.entries:
            found.setdefault(entry.group, []).append(entry)
        return found

    def protocols(self) -> list[str]:
        """The keys under which any run has been evaluated, the specs' own order first."""
        return list(dict.fromkeys(key for entry in self.entries for key in entry.folder.evaluations()))


def read_sweep(sweep_folder: Path, results: Path) -> SweepResults:
    """Raises UserError for damaged files."""
    environment, runs = sweep_folder / "environment.json", runs_folder(results)
    lines = {line["id"]: line for line in read_lines(sweep_folder / "runs.jsonl")}
    groups = group_names(lines)
    return SweepResults(
        sweep=read_json(sweep_folder / "sweep.json"),
        environment=read_json(environment) if environment.is_file() else {},
        entries=tuple(
            SweepRun(i, line["label"], line, CachedRunFolder(runs / i), groups[i]) for i, line in lines.items()
        ),
    )


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
    words = f"seed {line['settings']['seed']}"
    return ", ".join(part for part in label.split(", ") if part != words).removesuffix(f": {words}") or "all seeds"
