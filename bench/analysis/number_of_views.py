"""Quality against the number of input views at evaluation, of models trained with one (`views.evaluation_inputs`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench.analysis import remarks
from bench.analysis.formatting import ARROWS, FormattedTable, markdown
from bench.analysis.sweep_results import SweepResults, protocol_metrics
from bench.analysis.systematization import BASELINE, TRIVIAL, against_baseline
from bench.analysis.table_rows import TableRow, format_cell, table_rows

NOTE = (
    "One training a setting; N is the number of input views at evaluation. The view choice gives inputs and "
    "targets for each N, so targets may differ: compare each line with its trivial baseline, and settings at equal N."
)


@dataclass(frozen=True)
class Result:
    """Of a setting with one number of input views, under the results' `key`."""

    setting: str
    trained: int  # number of input views in training
    number: int
    row: TableRow
    baselines: Mapping[str, Any]
    verdict: str  # against the trivial baseline of its kind


def results(sweep: SweepResults, protocol: str) -> list[Result]:
    """Of settings that were evaluated with several numbers of views under this protocol (`<protocol>@<version>`), by
    setting, ascending in the number."""
    by_setting: dict[str, dict[int, Result]] = {}
    for key in sweep.protocols():
        rows = {row.label: row for row in table_rows(sweep, key) if row.kind == "run"}
        for setting, runs in sweep.groups().items():
            trained = sweep.fields[setting].get("views.inputs")  # of a run that is recorded whole
            evaluation = next((e for run in runs if (e := run.folder.evaluations().get(key))), None)
            if trained is None or evaluation is None or "{name}@{version}".format(**evaluation["protocol"]) != protocol:
                continue
            number = len(next(iter(evaluation["views"].values()))["inputs"])
            row = rows[setting]
            verdict = against_baseline(row, runs, key)
            result = Result(setting, trained, number, row, evaluation["baselines"], verdict)
            by_setting.setdefault(setting, {})[number] = result
    return [by_number[n] for by_number in by_setting.values() if len(by_number) > 1 for n in sorted(by_number)]


def shared_baseline(of: Sequence[Result], metric: str) -> tuple[str, dict[int, float]]:
    """Label and number of views → value of a metric's trivial baseline, where it is the same for all settings."""
    values: dict[int, set[float]] = {}
    label = ""
    for result in of:
        if baseline := result.baselines.get(TRIVIAL.get(metric, "")):
            label = baseline["label"]
            values.setdefault(result.number, set()).add(baseline["means"][metric])
    return label, {number: min(each) for number, each in sorted(values.items()) if len(each) == 1}


def build(sweep: SweepResults, protocol: str) -> FormattedTable | None:
    """A row a setting and number of views; None where no setting was evaluated with several."""
    if not (evaluated := results(sweep, protocol)):
        return None
    metrics = [m for m in protocol_metrics(sweep, protocol) if m["better"] != "none" and m["name"] != "lpips_alex"]
    lines = []
    for result in evaluated:
        line = {"": result.setting, "Trained with": str(result.trained), "N": str(result.number)}
        line |= {m["heading"] + ARROWS[m["better"]]: format_cell(result.row, m["name"]) for m in metrics}
        lines.append(line | {BASELINE: result.verdict})
    cells = pd.DataFrame(lines)
    caption = [remarks.subject(sweep), *remarks.evaluated_on(sweep, protocol)[:2], *remarks.commits_of(sweep, protocol)]
    title = f"Quality against the number of input views N at evaluation: {'; '.join(caption)}."
    definitions = [f"{metric['heading']}: {metric['definition']}." for metric in metrics]
    return FormattedTable(
        title,
        cells.loc[:, (cells != "").any()],
        [NOTE, *remarks.code_notes(sweep, protocol)],
        definitions,
        ("", BASELINE),
    )


def render(sweep: SweepResults, protocol: str) -> dict[str, str]:
    """{"csv", "md"}: the table's text in each format; empty where it does not apply."""
    table = build(sweep, protocol)
    return {} if table is None else {"csv": table.cells.to_csv(index=False), "md": markdown(table)}
