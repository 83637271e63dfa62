"""Table 3 of any sweep: quality, parameters, memory and time of its runs beside baselines → CSV, Markdown, LaTeX.

A number here is read from a run's JSON; what is missing is an empty cell with the run's status. Columns `measured/…` of
the CSV depend on the machine: leave them out to compare tables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bench.analysis.sweep_results import SweepResults, SweepRun, read_sweep
from bench.analysis.table_rows import MEASURED, TableRow, table_rows
from bench.common.files import atomic_write_text
from bench.runtime import provenance

SHOWN = {"reserved_peak_memory_gib": "GPU mem. [GiB]", "host_peak_memory_gib": "Host mem. [GiB]",
         "step_time_ms": "Step [ms]"}  # fmt: skip
DECIMALS = {"ssim": 3, "lpips_vgg": 3, "lpips_alex": 3, "depth_error": 3, "point_error": 3, "step_time_ms": 0}
ARROW = {"higher": " ↑", "lower": " ↓", "none": ""}
MARK = "†"
PARAMS = "Params."
SYMBOLS = {"±": r"$\pm$", MARK: r"$^\dagger$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "−": "--", "Δ": r"$\Delta$",
           "μ": r"$\mu$", "‖": r"$\|$"}  # fmt: skip
TINY = (
    "Tiny results (CPU, minutes of training) are evidence that the mechanics work and for claim 3 (grid artifact of "
    "linear heads, reduced by a DPT head). They are no evidence for claims 1 and 2 (quality and cost of a pretrained "
    "encoder) nor comparable with the paper's numbers. The standard deviation between seeds is about 0.2 dB: "
    "differences need at least 3 seeds."
)


def write(sweep_folder: Path, results: Path) -> list[Path]:
    """tables/table.{csv,md,tex} for the first protocol, table_<protocol>@<version>.* for others."""
    sweep = read_sweep(sweep_folder, results)
    written = []
    for i, protocol in enumerate(sweep.protocols() or [""]):
        stem = "table" if i == 0 else f"table_{protocol}"
        for suffix, text in render(sweep, protocol).items():
            path = sweep_folder / "tables" / f"{stem}.{suffix}"
            atomic_write_text(path, text)
            written.append(path)
    return written


@dataclass(frozen=True)
class FormattedTable:
    """A table as it is read: cells as text, what must be known beside them, and what each number means."""

    title: str
    cells: pd.DataFrame
    remarks: Sequence[str]
    definitions: Sequence[str]


def build_table(sweep: SweepResults, protocol: str) -> FormattedTable:
    """The table of one protocol's results."""
    found, metrics = table_rows(sweep, protocol), metrics_of(sweep, protocol)
    return FormattedTable(caption(sweep, protocol), _formatted(found, metrics), _remarks(sweep, protocol, found),
                 _definitions(sweep, metrics))  # fmt: skip


def render(sweep: SweepResults, protocol: str) -> dict[str, str]:
    """{"csv", "md", "tex"}: the table's text in each format."""
    table = build_table(sweep, protocol)
    notes = [*table.remarks, *table.definitions]
    markdown = table.cells.to_markdown(
        index=False, disable_numparse=True, colalign=["left"] + ["right"] * (table.cells.shape[1] - 1)
    )
    body = "\n".join(f"- {note}" for note in notes)
    return {
        "csv": frame(table_rows(sweep, protocol), metrics_of(sweep, protocol)).to_csv(index=False),
        "md": f"**{table.title}**\n\n{markdown}\n\n{body}\n",
        "tex": latex(table.cells, " ".join([table.title, *notes])),
    }


def read_markdown(text: str) -> FormattedTable:
    """What `render` wrote as "md"; for summaries whose runs are not here."""
    lines = text.splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    notes = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
    first = next((i for i, note in enumerate(notes) if note.startswith(PARAMS)), len(notes))
    return FormattedTable(lines[0].strip("*"), pd.DataFrame(cells[2:], columns=cells[0]), notes[:first], notes[first:])


def frame(found: Sequence[TableRow], metrics: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    """Numbers as they are, a column each; measured ones last."""
    lines = []
    for row in found:
        line: dict[str, Any] = {"label": row.label, "kind": row.kind, "status": row.status}
        line["seeds"] = max(map(len, row.values.values()), default=0) if row.kind == "run" else None
        for metric in metrics:
            line[metric["name"]] = row.mean(metric["name"])
            line[f"{metric['name']}_sd"] = row.deviation(metric["name"])
        for part in ("encoder", "aggregator", "head", "total"):
            line[f"parameters_{part}"] = (row.parameters or {}).get(part)
        line["not_beaten"] = "; ".join(row.baselines_not_exceeded)
        line |= {f"measured/{name}": row.mean(name) for name in MEASURED}
        lines.append(line)
    whole = ["seeds", *(f"parameters_{part}" for part in ("encoder", "aggregator", "head", "total"))]
    return pd.DataFrame(lines).astype(dict.fromkeys(whole, "Int64"))


def millions(count: int | None) -> str:
    """Truncated as the paper prints them: 307,941,824 → 307M; 2,499,999 → 2.4M; 99,999 → 99k."""
    if count is None:
        return ""
    if count < 10**5:
        return f"{count // 10**3}k"
    return f"{count // 10**6}M" if count >= 10**7 else f"{count // 10**5 / 10:.1f}M"


def caption(sweep: SweepResults, protocol: str) -> str:
    """Scale, protocol, scenes, data and commit, as recorded."""
    changes = "".join(f" {change}" for change in sweep.sweep.get("overrides", ()))
    parts = [f"{sweep.sweep.get('name', '')}{changes} at scale {sweep.scale}"]
    evaluation = next(
        (e for entry in sweep.entries for k, e in entry.folder.evaluations().items() if k == protocol), None
    )
    if evaluation:
        views = next(iter(evaluation["views"].values()))
        data = evaluation["data"]
        parts += [
            f"protocol {protocol}",
            f"{len(evaluation['scenes'])} evaluation scenes of {data['name']} {data.get('version', '')}".strip(),
            f"{len(views['inputs'])} inputs and {len(views['targets'])} targets at {evaluation['image_size']} px",
        ]
    if commits := "; ".join(commits_of(sweep, protocol)):
        parts.append(commits)
    return "; ".join(parts) + "."


def commits_of(sweep: SweepResults, protocol: str) -> list[str]:
    """What a caption says of the code: the commit that computed the table's numbers, or that there are several; then
    the spec's file, where that commit does not hold it. Without any number, the commit that recorded the sweep."""
    found = list(_stages_by_commit(sweep, protocol)) or provenance.commit_labels(sweep.environment)
    spec_file = list(filter(None, [spec_file_remark(sweep)]))
    if not found:
        return []
    if len(found) > 1:
        return [f"{len(found)} commits (see below)", *spec_file]
    changed = " (with local changes)" if found[0].endswith("+") or spec_file else ""
    return [f"commit {found[0].rstrip('+')}{changed}", *spec_file]


def spec_file_remark(sweep: SweepResults) -> str:
    """Empty where the commit holds the spec's file as it was run, or where that was not recorded."""
    state, path = sweep.environment.get("spec_file") or "committed", sweep.sweep.get("spec", "")
    told = {
        "changed": f"the spec file {path} differs from the commit",
        "untracked": f"the spec file {path} is in no commit",
        "outside the repository": f"the spec file {path} lies outside the repository, so no commit holds it",
    }
    return told.get(state, "")


def _stages_by_commit(sweep: SweepResults, protocol: str) -> dict[str, list[str]]:
    """Commit → the runs, or stages of runs, whose numbers stand in the table."""

    def shown(stage: str) -> bool:
        return stage in ("train", f"evals/{protocol}") or stage.startswith("profiles/")

    runs = {entry.label: {s: record for s, record in entry.provenance.items() if shown(s)} for entry in sweep.entries}
    return provenance.by_commit(runs)


def metrics_of(sweep: SweepResults, protocol: str) -> list[dict[str, str]]:
    """As the protocol in the results defines them."""
    for entry in sweep.entries:
        if evaluation := entry.folder.evaluations().get(protocol):
            return list(evaluation["protocol"]["metrics"])
    return []


def _formatted(found: Sequence[TableRow], metrics: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    lines = []
    for row in found:
        line = {"": row.label + (f" {MARK}" if row.baselines_not_exceeded else "")}
        for metric in metrics:
            line[metric["heading"] + ARROW[metric["better"]]] = _cell(row, metric["name"])
        line[PARAMS] = millions((row.parameters or {}).get("total"))
        line |= {heading: _cell(row, name) for name, heading in SHOWN.items()}
        line["Status"] = row.status if row.kind == "run" else row.kind
        lines.append(line)
    return pd.DataFrame(lines)


def _cell(row: TableRow, name: str) -> str:
    mean, deviation, decimals = row.mean(name), row.deviation(name), DECIMALS.get(name, 2)
    if math.isnan(mean):
        return ""
    spread = "" if math.isnan(deviation) else f" ± {deviation:.{decimals}f}"
    return f"{mean:.{decimals}f}{spread}"


def _remarks(sweep: SweepResults, protocol: str, found: Sequence[TableRow]) -> list[str]:
    """What keeps the numbers from being taken at their face."""
    given = [entry for entry in sweep.entries if entry.line.get("steps") == 0]
    notes = [TINY] if sweep.scale == "tiny" and len(given) < len(sweep.entries) else []
    notes += [_untrained(given)] if given else []
    evaluations = [entry.folder.evaluations().get(protocol, {}) for entry in sweep.entries]
    if len(frames := {evaluation["frame"] for evaluation in evaluations if "frame" in evaluation}) > 1:
        notes.append(f"Depth and point errors of different frames ({', '.join(sorted(frames))}) do not compare.")
    beaten: dict[str, list[str]] = {}
    for row in found:
        beaten.setdefault(", ".join(row.baselines_not_exceeded), []).append(row.label)
    alone = len([what for what in beaten if what]) == 1  # one mark, one meaning: no need to name who bears it
    notes += [f"{MARK} {'' if alone else '; '.join(labels) + ': '}not above {what}."
              for what, labels in beaten.items() if what]  # fmt: skip
    runs = [row for row in found if row.kind == "run"]
    if any(len(row.values.get("psnr", ())) > 1 for row in runs):
        notes.append("± is the standard deviation between seeds (n − 1).")
    missing = {n: r for entry in sweep.entries
               for n, r in entry.folder.evaluations().get(protocol, {}).get("missing", {}).items()}  # fmt: skip
    notes += [f"{name} is empty: {reason}." for name, reason in missing.items()]
    if len(commits := _stages_by_commit(sweep, protocol)) > 1:
        told = "; ".join(f"{commit} ({', '.join(what)})" for commit, what in commits.items())
        changed = "; + means with local changes" if any(commit.endswith("+") for commit in commits) else ""
        notes.append(f"These numbers come from different commits: {told}{changed}.")
    notes += _data_notes(sweep, protocol, runs)
    if unfinished := [f"{row.label}: {row.status}" for row in runs if row.status != "done"]:
        notes.append(f"Not finished: {'; '.join(unfinished)}.")
    return notes


def _definitions(sweep: SweepResults, metrics: Sequence[Mapping[str, str]]) -> list[str]:
    notes = [f"{PARAMS} are trained parameters, truncated to millions as in the paper."]
    profile = next((p for entry in sweep.entries for p in entry.folder.profiles().values()), None)
    if profile:
        notes.append(
            f"Step: {profile['definitions']['step_time_ms']}; on {profile['device']}, batch {profile['batch']}."
        )
        notes.append(
            f"Host mem.: {profile['definitions']['host_peak_memory_gib']}. GPU mem.: reserved; empty on a CPU."
        )
    return notes + [f"{metric['heading']}: {metric['definition']}." for metric in metrics]


def _untrained(entries: Sequence[SweepRun]) -> str:
    """Whose weights are evaluated."""
    told = []
    for entry in entries:
        init = entry.folder.spec()["init"] if (entry.folder.path / "spec.json").is_file() else {}
        given = {part: source for part, source in init.items() if source != "scratch"}
        told.append(f"{entry.label} ({', '.join(_source(part, source) for part, source in given.items())})")
    return (
        f"Nothing was trained: {'; '.join(told)}: given weights are evaluated as they are. Step time and memory are of "
        "training steps, so their cells are empty."
    )


def _source(part: str, source: Mapping[str, Any]) -> str:
    if "weights" in source:
        return f"{part} from {source['weights']}, sha256 {str(source['sha256'])[:12]}…"
    return f"{part} from run {source['run']}, {source['id']}"


def _data_notes(sweep: SweepResults, protocol: str, runs: Sequence[TableRow]) -> list[str]:
    """The share of a step spent waiting for data, and what was skipped as broken."""
    notes = []
    waits = [wait for row in runs for wait in row.values.get("data_wait_share", ())]
    if waits:
        notes.append(f"Waiting for data took {max(waits):.1%} of the training steps' time at most.")
    drawn, evaluated = set(), set()
    for entry in sweep.entries:
        drawn |= {defect["scene"] for defect in (entry.folder.scenes() or {}).get("broken", ())}
        evaluated |= {defect["scene"] for defect in entry.folder.evaluations().get(protocol, {}).get("broken", ())}
    for scenes, where, file in (
        (drawn, "training", "scenes.json"),
        (evaluated, "evaluation", f"evals/{protocol}.json"),
    ):
        if scenes:
            notes.append(f"Skipped as broken in {where}: {len(scenes)} scenes (named in the runs' {file}).")
    return notes


def latex(shown: pd.DataFrame, text: str) -> str:
    """A table environment with booktabs' rules; the notes stand in the caption."""
    special = {ord(c): rf"\{c}" for c in "&%$#_{}"} | {ord("^"): r"\textasciicircum{}"}
    tabular = shown.to_latex(index=False, escape=True, column_format="l" + "r" * (shown.shape[1] - 1))
    lines = (r"\begin{table*}", r"\centering", rf"\caption{{{text.translate(special)}}}", tabular + r"\end{table*}", "")
    table = "\n".join(lines)
    for symbol, command in SYMBOLS.items():
        table = table.replace(symbol, command)
    return table
