"""A sweep's results as tables and figures want them: its runs in order, seeds of one setting together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.record import RunFolder, read_json, read_lines, runs_folder

SEED = re.compile(r"(, )?\bseed \d+")


class ReadOnce(RunFolder):
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
class Entry:
    """One run of a sweep: its line of runs.jsonl and its folder, which may lack any stage."""

    id: str
    label: str
    line: Mapping[str, Any]
    folder: RunFolder

    @property
    def group(self) -> str:
        """The label without the seed."""
        return SEED.sub("", self.label).strip(", ") or "all seeds"

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
    entries: tuple[Entry, ...]

    @property
    def scale(self) -> str:
        return str(self.sweep["scale"])

    def groups(self) -> dict[str, list[Entry]]:
        """label → its seeds, in the sweep's order."""
        found: dict[str, list[Entry]] = {}
        for entry in self.entries:
            found.setdefault(entry.group, []).append(entry)
        return found

    def protocols(self) -> list[str]:
        """The keys under which any run has been evaluated, the specs' own order first."""
        return list(dict.fromkeys(key for entry in self.entries for key in entry.folder.evaluations()))


def read_sweep(sweep_folder: Path, results: Path) -> SweepResults:
    """Raises BadInput for damaged files."""
    environment, runs = sweep_folder / "environment.json", runs_folder(results)
    lines = {line["id"]: line for line in read_lines(sweep_folder / "runs.jsonl")}
    return SweepResults(
        sweep=read_json(sweep_folder / "sweep.json"),
        environment=read_json(environment) if environment.is_file() else {},
        entries=tuple(Entry(i, line["label"], line, ReadOnce(runs / i)) for i, line in lines.items()),
    )
