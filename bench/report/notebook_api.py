"""A sweep's folder as pandas DataFrames, and as the sections of its report."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.analysis import deviations, tables
from bench.analysis.deviations import flat
from bench.analysis.sweep_results import SweepResults, SweepRun, read_sweep
from bench.analysis.table_rows import MEASURED, table_rows
from bench.common.errors import UserError
from bench.runs.folder import Status
from bench.runs.states import State

if TYPE_CHECKING:
    from bench.report.html import Html

MEASURED_WITH = ("device", "world", "threads", "batch", "micro_batch", "step_time_ms_p10", "step_time_ms_p90")
PARTS = ("encoder", "aggregator", "head", "output")


class SweepReport:
    """What is known of a sweep. A published summary, whose runs lie elsewhere, gives what its files hold."""

    def __init__(self, folder: Path, results: Path) -> None:
        if not (folder / "sweep.json").is_file():
            raise UserError(f"{folder} is no sweep's folder: it has no sweep.json (name results/<spec>_<scale>)")
        self.folder, self.results = folder, results
        self.read: SweepResults = read_sweep(folder, results)

    def __repr__(self) -> str:
        return f"{self.name} at scale {self.scale}: {len(self.read.entries)} runs"

    @property
    def name(self) -> str:
        return str(self.read.sweep["name"])

    @property
    def scale(self) -> str:
        return self.read.scale

    @property
    def summary_only(self) -> bool:
        """Whether no run's folder is here: tables and figures are then taken as they were written."""
        return not any(entry.folder.path.is_dir() for entry in self.read.entries)

    def status(self, entry: SweepRun) -> Status:
        """Of a run; without its folder as the sweep recorded it."""
        if entry.folder.path.is_dir():
            return entry.folder.status()
        line = entry.line
        return Status(State(line.get("status", State.PLANNED)), line.get("phase", ""), line.get("message", ""))

    def runs(self) -> pd.DataFrame:
        """One row a run, in the sweep's order: label, id, group (the label without its seed), seed, status, phase,
        message, the parts' names, steps, tokens_per_scene, parameters, training_s."""
        return pd.DataFrame([self._run(entry) for entry in self.read.entries])

    def _run(self, entry: SweepRun) -> dict[str, Any]:
        line, status = entry.line, self.status(entry)
        return {
            "label": entry.label, "id": entry.id, "group": entry.group, "seed": line.get("seed"),
            "status": status.state, "phase": status.phase, "message": status.message,
            **{part: (line.get("model") or {}).get(part) for part in PARTS},
            "steps": line.get("steps"), "tokens_per_scene": line.get("tokens_per_scene"),
            "parameters": (line.get("parameters") or {}).get("total"),
            "training_s": (entry.folder.training() or {}).get("training_s"),
        }  # fmt: skip

    def protocols(self) -> list[str]:
        """name@version of every protocol that some run was evaluated under."""
        return self.read.protocols()

    def table(self, protocol: str | None = None) -> pd.DataFrame:
        """The result table in numbers: a row a setting (means over seeds, `…_sd` between them), then its baselines.

        `kind` says run, baseline or oracle; `measured/…` depend on the machine. Default: the first protocol.
        """
        written = self.folder / "tables" / "table.csv"
        if self.summary_only and written.is_file():
            return pd.read_csv(written)
        if not self.read.entries:
            return pd.DataFrame()
        key = protocol or next(iter(self.protocols()), "")
        return tables.frame(table_rows(self.read, key), tables.metrics_of(self.read, key))

    def shown(self) -> Iterator[tables.FormattedTable]:
        """The result tables as text, one a protocol."""
        if self.summary_only:
            for path in sorted((self.folder / "tables").glob("table*.md")):
                yield tables.read_markdown(path.read_text(encoding="utf-8"))
        elif self.read.entries:
            for protocol in self.protocols() or [""]:
                yield tables.build_table(self.read, protocol)

    def scenes(self, protocol: str | None = None) -> pd.DataFrame:
        """One row a run and evaluation scene, a column a metric: for paired comparisons."""
        key = protocol or next(iter(self.protocols()), "")
        return pd.DataFrame(
            {"label": entry.label, "id": entry.id, "group": entry.group, "scene": scene, **metrics}
            for entry in self.read.entries
            for scene, metrics in entry.folder.evaluations().get(key, {}).get("per_scene", {}).items()
        )

    def metrics(self, *labels: str) -> pd.DataFrame:
        """One row a training step and run (of these labels, or all): step, loss, loss/…, gradient_norm/…, times."""
        chosen = [entry for entry in self.read.entries if not labels or entry.label in labels]
        frames = [
            pd.DataFrame(records).assign(label=entry.label, id=entry.id)
            for entry in chosen
            if (records := entry.folder.metrics())
        ]
        if not frames:
            return pd.DataFrame(columns=["label", "id", "step", "loss"])
        found = pd.concat(frames, ignore_index=True)
        return found[["label", "id", *[name for name in found if name not in ("label", "id")]]]

    def costs(self) -> pd.DataFrame:
        """One row a run and profile: parameters of E, A, D and in total, tokens_per_scene, step time and memory with
        the device, batch and threads that they were measured with."""
        lines = [line for entry in self.read.entries for line in _costs(entry)]
        table = self.table() if self.summary_only else pd.DataFrame()
        summed = {row["label"]: row for row in table.to_dict("records")}
        for line in lines:
            row = summed.get(line["label"], {})
            line |= {name: row[f"measured/{name}"] for name in MEASURED if f"measured/{name}" in row}
        return pd.DataFrame(lines)

    @cached_property
    def specs(self) -> dict[str, dict[str, Any]]:
        """setting → its resolved fields, dotted, without the seed; of a summary those that it tells."""
        return {label: _fields(entries[0]) for label, entries in self.read.groups().items()}

    def deviations(self) -> pd.DataFrame:
        """What the paper states, what the runs did instead, and which of them."""
        return deviations.frame(self)

    def paper(self) -> pd.DataFrame:
        """Table 3 as printed, beside the settings with the same parts; the columns say whose numbers they are."""
        return deviations.paper_comparison(self)

    def show(self, section: str) -> Html:
        """A section of the report: see bench/report/sections.py."""
        from bench.report import sections

        return sections.render_section(self, section)

    def figure(self, name: str) -> Html:
        """A figure of the sweep: loss_curves, qualitative or comparison."""
        from bench.report import sections

        return sections.figure(self, name)


def _fields(entry: SweepRun) -> dict[str, Any]:
    line = entry.line
    spec = line.get("spec") or (entry.folder.spec() if (entry.folder.path / "spec.json").is_file() else None)
    if spec is not None:
        return {key: value for key, value in flat(spec).items() if key != "seed"}
    told = {f"model.{part}.name": name for part, name in (line.get("model") or {}).items()}
    return told | {key: line[name] for key, name in (("data.name", "data"), ("train.steps", "steps")) if name in line}


def _costs(entry: SweepRun) -> Iterator[dict[str, Any]]:
    counts = entry.line.get("parameters") or {}
    evaluated = next(iter(entry.folder.evaluations().values()), {})
    known = {f"parameters_{part}": count for part, count in (counts or evaluated.get("parameters", {})).items()}
    start = {"label": entry.label, "id": entry.id, **known, "tokens_per_scene": entry.line.get("tokens_per_scene")}
    profiles = entry.folder.profiles()
    for name, profile in profiles.items():
        yield start | {"profile": name} | {key: profile.get(key) for key in (*MEASURED_WITH, *MEASURED)}
    if not profiles:
        yield start
