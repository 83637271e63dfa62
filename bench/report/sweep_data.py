"""A sweep's folder as pandas DataFrames and formatted tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from bench.analysis import answers, cost, deviations, number_of_views, systematization, tables
from bench.analysis.formatting import FormattedTable, read_markdown
from bench.analysis.sweep_results import SweepResults, SweepRun, protocol_metrics, read_sweep
from bench.analysis.table_rows import MEASURED, table_rows
from bench.runs.folder import Status
from bench.runs.states import State

MEASURED_WITH = (
    "device",
    "world",
    "threads",
    "batch",
    "micro_batch",
    "load_average",
    "step_time_ms_p10",
    "step_time_ms_p90",
)
PARTS = ("encoder", "aggregator", "head", "output")


class SweepData:
    """What is known of a sweep. A published summary, whose runs lie elsewhere, gives what its files hold."""

    def __init__(self, folder: Path, results: Path) -> None:
        self.folder, self.results = folder, results
        self.records: SweepResults = read_sweep(folder, results)
        self.name, self.scale = self.records.name, self.records.scale
        self.summary_only = self.records.summary_only

    def __repr__(self) -> str:
        return f"{self.name} at scale {self.scale}: {len(self.records.runs)} runs"

    def status(self, run: SweepRun) -> Status:
        """Of a run; without its folder as the sweep recorded it."""
        if run.folder.path.is_dir():
            return run.folder.status()
        line = run.line
        return Status(State(line.get("status", State.PLANNED)), line.get("phase", ""), line.get("message", ""))

    def runs(self) -> pd.DataFrame:
        """One row a run, in the sweep's order: label, id, group (the label without its seed), seed, status, phase,
        message, the parts' names, steps, tokens_per_scene, parameters, training_s."""
        return pd.DataFrame([self._run(run) for run in self.records.runs])

    def _run(self, run: SweepRun) -> dict[str, Any]:
        line, status, training = run.line, self.status(run), run.folder.training() or {}
        return {
            "label": run.label, "id": run.id, "group": run.group, "seed": run.seed,
            "status": status.state, "phase": status.phase, "message": status.message,
            **{part: (line.get("model") or {}).get(part) for part in PARTS},
            "steps": training.get("steps", line.get("steps")), "tokens_per_scene": line.get("tokens_per_scene"),
            "parameters": (line.get("parameters") or {}).get("total"),
            "training_s": training.get("training_s"),
        }  # fmt: skip

    def protocols(self) -> list[str]:
        """name@version of every protocol that some run was evaluated under; none for a study of cost."""
        return self.records.protocols()

    def table(self, protocol: str | None = None) -> pd.DataFrame:
        """The result table in numbers: a row a setting (means over seeds, `…_sd` between them), then its baselines.

        `kind` says run, baseline or oracle; `measured/…` depend on the machine. Default: the first protocol.
        """
        written = self.folder / "tables" / "table.csv"
        if self.summary_only and written.is_file():
            return pd.read_csv(written)
        if not self.records.runs:
            return pd.DataFrame()
        key = protocol or next(iter(self.protocols()), "")
        return tables.frame(table_rows(self.records, key), protocol_metrics(self.records, key))

    def differences(self, protocol: str | None = None) -> pd.DataFrame:
        """Each setting minus the sweep's reference and, of a grid, each swept field's main effect: one row a
        comparison and metric, with a 95 % interval; see bench.analysis.answers. Default: the first protocol."""
        written = self.folder / "tables" / "answers.csv"
        if self.summary_only:
            return pd.read_csv(written) if written.is_file() else pd.DataFrame(columns=answers.COLUMNS)
        key = protocol or next(iter(self.protocols()), "")
        return answers.frame(answers.compare_variants(self.records, key), protocol_metrics(self.records, key))

    def answer_table(self) -> FormattedTable | None:
        """The same as text; None where there is nothing to compare."""
        if self.summary_only:
            return self._written("answers")
        return answers.build_answers(self.records, next(iter(self.protocols()), ""))

    def result_tables(self) -> Iterator[FormattedTable]:
        """The result tables as text, one a protocol; of a study of cost that of the costs before."""
        if self.records.studies_cost and (table := self._costs_table()):
            yield table
        if self.summary_only:
            for path in sorted((self.folder / "tables").glob("table[._]*md")):
                yield read_markdown(path.read_text(encoding="utf-8"))
        elif self.records.runs:
            for protocol in self.protocols() or [""]:
                yield tables.build_table(self.records, protocol)

    def table_1(self) -> FormattedTable | None:
        """The paper's Table 1 with what was measured beside it, as text; None for sweeps of one kind of model."""
        if self.summary_only:
            return self._written("table1")
        return systematization.build(self.records, next(iter(self.protocols()), ""))

    def number_of_views(self) -> FormattedTable | None:
        """Quality against the number of input views at evaluation, as text; None for sweeps of one number."""
        if self.summary_only:
            return self._written("number_of_views")
        return number_of_views.build(self.records, next(iter(self.protocols()), ""))

    def _costs_table(self) -> FormattedTable | None:
        return self._written("cost") if self.summary_only else cost.build(self.records)

    def _written(self, stem: str) -> FormattedTable | None:
        path = self.folder / "tables" / f"{stem}.md"
        return read_markdown(path.read_text(encoding="utf-8")) if path.is_file() else None

    def scenes(self, protocol: str | None = None) -> pd.DataFrame:
        """One row a run and evaluation scene: label, id, group, seed, scene and a column a metric."""
        key = protocol or next(iter(self.protocols()), "")
        rows = [
            {"label": run.label, "id": run.id, "group": run.group, "seed": run.seed, "scene": scene, **metrics}
            for run in self.records.runs
            for scene, metrics in run.folder.evaluations().get(key, {}).get("per_scene", {}).items()
        ]
        return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["label", "id", "group", "seed", "scene"])

    def metrics(self, *labels: str) -> pd.DataFrame:
        """One row a training step and run (of these labels, or all): step, loss, loss/…, gradient_norm/…, times."""
        frames = [
            pd.DataFrame(steps).assign(label=run.label, id=run.id)
            for run in self.records.runs
            if (not labels or run.label in labels) and (steps := run.folder.metrics())
        ]
        if not frames:
            return pd.DataFrame(columns=["label", "id", "step", "loss"])
        table = pd.concat(frames, ignore_index=True)
        return table[["label", "id", *[name for name in table if name not in ("label", "id")]]]

    def costs(self) -> pd.DataFrame:
        """One row a run and profile: parameters of E, A, D and in total, tokens_per_scene, step time and memory with
        the device, batch, threads and load average that they were measured with."""
        rows = [row for run in self.records.runs for row in _costs(run)]
        table = self.table() if self.summary_only else pd.DataFrame()
        summary = {row["label"]: row for row in table.to_dict("records")}
        for row in rows:
            measured = summary.get(row["label"], {})
            row |= {name: measured[f"measured/{name}"] for name in MEASURED if f"measured/{name}" in measured}
        return pd.DataFrame(rows)

    @property
    def specs(self) -> dict[str, dict[str, Any]]:
        """setting → its resolved fields, dotted, without the seed; of a summary those that it records."""
        return self.records.fields

    def deviations(self) -> pd.DataFrame:
        """What the paper states, what the runs did instead, and which of them."""
        return deviations.frame(self.records)

    def paper(self) -> pd.DataFrame:
        """Table 3 as printed, beside the settings with the same parts; the columns name the source of each number."""
        return deviations.paper_comparison(self.records, self.table())


def _costs(run: SweepRun) -> Iterator[dict[str, Any]]:
    counts = run.line.get("parameters") or {}
    evaluated = next(iter(run.folder.evaluations().values()), {})
    parameters = {f"parameters_{part}": count for part, count in (counts or evaluated.get("parameters", {})).items()}
    start = {"label": run.label, "id": run.id, **parameters, "tokens_per_scene": run.line.get("tokens_per_scene")}
    profiles = run.folder.profiles()
    for name, profile in profiles.items():
        yield start | {"profile": name} | {key: profile.get(key) for key in (*MEASURED_WITH, *MEASURED)}
    if not profiles:
        yield start
