"""The sections of a report that say how its numbers came about: environment, code, spec, command."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.analysis import remarks
from bench.analysis.deviations import group_by_value
from bench.report.html import Grid, Line
from bench.runtime import provenance

if TYPE_CHECKING:
    from bench.report.sweep_data import SweepData


def environment(sweep: SweepData) -> dict[str, Any]:
    """Line by line what the sweep and the stages of its runs recorded; a run's name stands for all its stages."""
    recorded: dict[str, Mapping[str, Any]] = {"the sweep": sweep.records.environment}
    for run in sweep.records.runs:
        recorded |= {f"{run.label}: {stage}": record for stage, record in run.provenance.items() if record}
    names = dict.fromkeys(name for record in recorded.values() for name in record)
    lines = []
    for name in (name for name in names if name not in ("schema_version", "time", "sessions")):
        values = {source: _setting(record[name]) for source, record in recorded.items() if name in record}
        for run in sweep.records.runs:
            stages = [f"{run.label}: {stage}" for stage in run.provenance if f"{run.label}: {stage}" in values]
            if len({values[stage] for stage in stages}) == 1:
                values[run.label] = values[stages[0]]
                for stage in stages:
                    del values[stage]
        runs = "; ".join(source for source in values if source != "the sweep")
        for value, sources in group_by_value(values, values):
            lines.append(Line([name, value, {runs: "the runs"}.get(sources, sources)]))
    return {"environment": Grid(["", "value", "of"], lines, (0, 1, 2))}


def _setting(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_setting(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "–" if value is None else str(value)


def reproduce(sweep: SweepData) -> dict[str, Any]:
    """The command as it was given, the spec's text, the commit and what differed from it, and each run's id with the
    commits that its stages ran at."""
    runs, record = sweep.records.runs, sweep.records.sweep
    commits = provenance.by_commit({run.label: run.provenance for run in runs})
    records = [stage for run in runs for stage in run.provenance.values()] + [sweep.records.environment]
    commit = next((stage["commit"] for stage in records if stage.get("commit")), "")
    rows = []
    for run in runs:
        fields = sweep.specs[run.group]
        data = " ".join(str(fields[key]) for key in ("data.name", "data.version") if key in fields)
        own = provenance.by_commit({"": run.provenance})
        stages = [
            f" ({', '.join(s.removeprefix(': ') for s in names)})" if len(own) > 1 else "" for names in own.values()
        ]
        code = "; ".join(label + suffix for label, suffix in zip(own, stages, strict=True))
        rows.append(Line([run.label, run.id, str(run.line.get("seed", "")), data, code]))
    labels = list(commits) or provenance.commit_labels(sweep.records.environment)
    return {"commit": commit.rstrip("+"), "several": len({label.rstrip("+") for label in labels}) > 1,
            "changed": any(label.endswith("+") for label in labels), "command": command(sweep),
            "spec_file": remarks.spec_file_remark(sweep.records), "texts": record.get("sources", {}),
            "code_diff": record.get("code_diff") or "",
            "ids": Grid(["run", "id", "seed", "data", "commit"], rows, range(5))}  # fmt: skip


def command(sweep: SweepData) -> str:
    """As it was given; empty if the sweep does not record its spec."""
    record = sweep.records.sweep
    if "spec" not in record:
        return ""
    words = ["python", "-m", "bench.run", record["spec"], *record.get("overrides", [])]
    words += [] if sweep.scale == "tiny" else ["--scale", sweep.scale]
    return shlex.join(words + (["--name", name] if (name := record.get("folder_name")) else []))
