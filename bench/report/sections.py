"""The sections of a report: what each template needs, gathered from a sweep's records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench import figures
from bench.analysis import deviations, paper, remarks
from bench.analysis.deviations import format_value, group_by_value
from bench.analysis.estimates import estimate_ratios
from bench.analysis.formatting import millions
from bench.analysis.variants import differences_of
from bench.common.errors import UserError
from bench.report import provenance_sections
from bench.report.html import (
    Grid,
    Html,
    Line,
    css,
    grid,
    render,
)
from bench.report.provenance_sections import command

if TYPE_CHECKING:
    from bench.analysis.sweep_results import SweepRun
    from bench.report.sweep_data import SweepData

LOG_LINES = 12
CAPTIONS = {
    "loss_curves": "Each term of the loss (eq. 6) against the training step, as in the paper's Fig. 3. Faint, of "
    "few settings: as recorded; strong: running mean over 4 % of the steps; shaded: steps with L_3D alone; bands: "
    "range between seeds.",
    "qualitative": "Inputs, true and rendered target views; right, the depth of the first input view's Gaussians "
    "inside the true mask, as the paper's Fig. 2, beside the true depth. One depth scale a scene.",
    "comparison": "Quality and step time; lines are the baselines of the same scenes and views.",
    "time_by_part": "Where a training step's time goes, phase by phase, without a profiler; hatched: backward passes.",
    "memory_by_part": "What tensors hold at the peak of a training step, by the part that allocated it (gradients and "
    "what the backward pass needs: backward).",
    "memory_timeline": "What tensors hold during a training step, by the part that allocated it; the mark is the peak.",
    "top_operators": "The operators that take most of a training step's time, without those that run inside of them.",
    "number_of_views": "Against the number of input views: quality, and where models were trained with several numbers "
    "step time, memory and forward operations. Rings: the number that a model was trained with; dotted: the baseline.",
    "quality_over_time": "Validation PSNR against minutes of training; bands: range between seeds; dotted: what the "
    "first setting came to. Settings of one base share a color where their lines tell them apart. "
    "Before the end the learning rate is still high, which costs quality.",
}
EMPTY = {
    "loss_curves": "No run has recorded a training step yet.",
    "qualitative": "No run has been evaluated yet, so there are no pictures.",
    "comparison": "No run has been evaluated yet.",
    **dict.fromkeys(figures.of_traces.KINDS, "No run was traced: profile.trace=true does it, for finished runs too."),
    "number_of_views": "No model was trained or evaluated with several numbers of input views.",
    "quality_over_time": "No run validated while it trained: train.keep=best does.",
}
UNTRAINED = ("qualitative", "comparison")  # say nothing of a study of cost
STUDY_OF_COST = "A study of cost: its models are hardly trained, so their quality is not shown."
HEADINGS = {"psnr": "PSNR ↑", "ssim": "SSIM ↑", "lpips": "LPIPS ↓", "lpips_vgg": "LPIPS (VGG) ↓",
            "lpips_alex": "LPIPS (Alex) ↓", "parameters_millions": "Params.", "parameters_total": "Params.",
            "gpu_gb": "GPU [GB]", "measured/reserved_peak_memory_gib": "GPU mem. [GiB]"}  # fmt: skip


def render_section(sweep: SweepData, section: str) -> Html:
    """Raises UserError naming the sections."""
    if section not in SECTIONS:
        raise UserError(f"no section {section!r} in a report: choose from {', '.join(SECTIONS)}")
    html = render(section, {"sweep": sweep, "here": f"here, scale {sweep.scale}", **SECTIONS[section](sweep)})
    return Html(html, f"<{section} of {sweep!r}>")


def figure(sweep: SweepData, name: str) -> Html:
    """Raises UserError naming the figures."""
    if name not in CAPTIONS:
        raise UserError(f"no figure {name!r} in a report: choose from {', '.join(CAPTIONS)}")
    if sweep.records.studies_cost and name in UNTRAINED:
        values: dict[str, Any] = {"figures": [], "empty": STUDY_OF_COST}
    else:
        values = {"figures": _drawn(sweep, name), "empty": EMPTY[name]}
    return Html(render("figures", values), f"<{name} of {sweep!r}>")


def _drawn(sweep: SweepData, name: str) -> list[tuple[Path, str]]:
    """The figure with its caption, where there is one."""
    paths = [sweep.folder / "figures" / f"{name}.{suffix}" for suffix in ("svg", "png")]
    return [(path, CAPTIONS[name]) for path in paths if path.is_file()][:1]


def _question(sweep: SweepData) -> dict[str, Any]:
    states = Counter(sweep.status(run).state for run in sweep.records.runs)
    return {
        "css": css("pieces"), "states": dict(states), "total": sum(states.values()), "record": sweep.records.sweep,
        "command": command(sweep), "evidence": remarks.tiny_remark(sweep.records),
    }  # fmt: skip


def _answers(sweep: SweepData) -> dict[str, Any]:
    table = sweep.answer_table()
    if sweep.records.studies_cost:
        return {"answer": None, "reason": "A study of cost: ratios to the reference are in the first table below."}
    if table is None:
        one = len(sweep.records.groups()) < 2
        reason = "has fewer than two" if one else "has no results yet"
        return {"answer": None, "reason": f"No settings to compare: the sweep {reason}."}
    return {"answer": grid(table.cells, table.text_columns), "title": table.title, "remarks": table.remarks}


def _variants(sweep: SweepData) -> dict[str, Any]:
    lines = [Line(_variant(label, runs, sweep)) for label, runs in sweep.records.groups().items()]
    head = ["setting", "E", "A (blocks, patch)", "D", "output", "tokens a scene", "Params.", "steps", "seeds", "status"]
    specs = sweep.specs
    keys = list(dict.fromkeys(key for fields in specs.values() for key in fields))
    values = {key: [format_value(f[key]) if key in f else "–" for f in specs.values()] for key in keys}
    differ = {key: row for key, row in values.items() if len(set(row)) > 1}
    by_setting = differences_of(sweep.records) if specs else {}
    unswept = {d.field for differences in by_setting.values() for d in differences if not d.swept}
    marked = [Line([f"{key} (not swept)" if key in unswept else key, *row]) for key, row in differ.items()]
    return {
        "variants": Grid(head, lines, (0, 1, 2, 3, 4, 9)),
        "differ": Grid(["field", *specs], marked),
        "unswept": sorted(unswept),
        "shared": Grid(["field", "value"], [Line([k, v[0]]) for k, v in values.items() if k not in differ], (0, 1)),
    }


def _variant(label: str, runs: Sequence[SweepRun], sweep: SweepData) -> list[str]:
    fields, line = sweep.specs[label], runs[0].line
    blocks, patch = (fields.get(f"model.{key}") for key in ("aggregator.blocks", "encoder.patch"))
    parts = [str(fields.get(f"model.{part}.name", "")) for part in ("encoder", "aggregator", "head", "output")]
    parts[1] += f" ({blocks}, {patch})" if blocks else ""
    tokens, steps = (f"{n:,}" if n else "" for n in (line.get("tokens_per_scene"), fields.get("train.steps")))
    seeds = ", ".join(str(run.line["seed"]) for run in runs if "seed" in run.line)
    states = Counter(sweep.status(run).state for run in runs)
    status = "; ".join(state if len(runs) == 1 else f"{count} {state}" for state, count in states.items())
    return [label, *parts, tokens, millions((line.get("parameters") or {}).get("total")), steps, seeds, status]


def _drawings(sweep: SweepData) -> dict[str, Any]:
    """Of each distinct model, by the first setting that has it."""
    paths = {sweep.folder / "figures" / figures.diagram_name(label): label for label in sweep.records.groups()}
    drawn = [(path, label) for path, label in paths.items() if path.is_file()]
    return {"figures": drawn[:1], "folded": drawn[1:], "empty": "No drawing: no run's spec is recorded here."}


def _results(sweep: SweepData) -> dict[str, Any]:
    entries = []
    for table in sweep.result_tables():
        statuses = table.cells.get("Status", [""] * len(table.cells))
        kinds = [status if status in ("baseline", "oracle") else "run" for status in statuses]
        notes = [note for note in table.remarks if remarks.TINY not in note]  # it stands below the question
        entries.append((table, grid(table.cells.assign(kind=kinds), {"", "Status"}, kind="kind"), notes))
    return {"tables": entries}


def _systematization(sweep: SweepData) -> dict[str, Any]:
    tables = [table for table in (sweep.table_1(), sweep.number_of_views()) if table is not None]
    entries = [(table, grid(table.cells, table.text_columns)) for table in tables]
    return {"tables": entries, "figures": _drawn(sweep, "number_of_views")}


def _paper(sweep: SweepData) -> dict[str, Any]:
    comparison, differing = sweep.paper(), sweep.deviations()
    columns: list[Any] = [c for c in comparison.columns if c[0] != sweep.scale or comparison[c].notna().any()]
    comparison = comparison[columns]
    models = list(comparison["model", ""])
    lines = [(models.count(row[0]) if row[0] not in models[:i] else 0,
              [_number(quantity, value) for (_, quantity), value in zip(columns, row, strict=True)])
             for i, row in enumerate(comparison.itertuples(index=False, name=None))]  # fmt: skip
    stated = {item.field: item.words for item in paper.RECIPE}
    unspecified = deviations.unspecified_by_paper(sweep.records)
    return {
        "lines": lines,
        "headings": [HEADINGS.get(quantity, quantity) for _, quantity in columns][1:],
        "printed": sum(source == "paper" for source, _ in columns),
        "experiment": ", ".join([stated["model.image_size"], stated["train.steps"], paper.HARDWARE]),
        "deviations": grid(differing.drop(columns="aspect"), set(differing.columns)),
        "aspects": list(dict.fromkeys(differing["aspect"])),
        "matched": deviations.matched_settings(sweep.records),
        "unspecified": grid(unspecified, set(unspecified.columns)),
    }


def _number(name: str, value: Any) -> str:
    if value is None or pd.isna(value):
        return ""
    if name == "parameters_millions":
        return f"{value:.0f}M"
    if name == "parameters_total":
        return millions(int(value))
    decimals = {"psnr": 1, "gpu_gb": 0, "measured/reserved_peak_memory_gib": 1}.get(name, 3)
    return str(value) if isinstance(value, str) else f"{value:.{decimals}f}"


def _costs(sweep: SweepData) -> dict[str, Any]:
    profiles = [profile for run in sweep.records.runs for profile in run.folder.profiles().values()]
    definitions = dict(item for profile in profiles for item in profile["definitions"].items())
    notes = ["Params. are trained parameters: the paper's Table 3 counts the same, truncated to millions."]
    notes += [f"{name}: {definition}." for name, definition in definitions.items()]
    rows = sweep.costs().to_dict("records")
    first = next((row["step_time_ms"] for row in rows if not pd.isna(row.get("step_time_ms"))), None)
    cells = pd.DataFrame([_cost(row, first) for row in rows], columns=COSTS)
    cells = cells.loc[:, (cells != "").any()]
    measured = {row["label"]: text for row in rows if (text := _measured_on(row))}
    return {"costs": grid(cells, {"run"}), "definitions": notes, "estimates": estimate_ratios(sweep.records),
            "measured": group_by_value(measured, measured),
            "load": remarks.load_average(sweep.records).removeprefix("; "),
            "figures": [*_drawn(sweep, "quality_over_time"),
                        *(drawn for kind in figures.of_traces.KINDS for drawn in _drawn(sweep, kind))]}  # fmt: skip


COSTS = ["run", "E", "A", "D", "Params.", "tokens a scene", "step [ms]", "10–90 %", "of the first", "host mem. [GiB]",
         "GPU mem. [GiB]"]  # fmt: skip


def _cost(row: Mapping[Any, Any], first: float | None) -> list[str]:
    """A run's line; `first`: the step time that others are a share of."""

    def number(name: str, form: str) -> str:
        return "" if (value := row.get(name)) is None or pd.isna(value) else form.format(value)

    step = row.get("step_time_ms")
    share = f"× {step / first:.2f}" if first and step and not pd.isna(step) else ""
    spread = "–".join(filter(None, (number(f"step_time_ms_{edge}", "{:.0f}") for edge in ("p10", "p90"))))
    counts = [number(f"parameters_{part}", "{:,.0f}") for part in ("encoder", "aggregator", "head", "total")]
    return [str(row["label"]), *counts, number("tokens_per_scene", "{:,.0f}"), number("step_time_ms", "{:.0f}"), spread,
            share, number("host_peak_memory_gib", "{:.2f}"), number("reserved_peak_memory_gib", "{:.2f}")]  # fmt: skip


def _measured_on(row: Mapping[Any, Any]) -> str:
    """Empty for what was not measured, or whose profile is not here."""
    if not isinstance(row.get("device"), str):
        return ""
    world = f", {row['world']:.0f} processes" if row["world"] > 1 else ""
    return f"{row['device']}, batch {row['batch']:.0f}, {row['threads']:.0f} threads{world}"


def _failures(sweep: SweepData) -> dict[str, Any]:
    failed, unfinished, warnings = [], [], []
    for run in sweep.records.runs:
        status, log = sweep.status(run), run.folder.path / "log.txt"
        last_lines = status.trace or (_tail(log) if log.is_file() else "")
        if not status.state.is_terminal:
            unfinished.append((run, status))
        elif status.state.failed:
            failed.append((run, status, last_lines, _display_path(log, sweep) if log.is_file() else ""))
        warnings += [(run, warning) for warning in (run.folder.training() or {}).get("warnings", [])]
    retry = sorted({status.state for _, status, _, _ in failed if status.state.needs_retry})
    retry_command = command(sweep)
    retry_command += f" --retry {','.join(retry)}" if retry and retry_command else ""
    return {"failed": failed, "unfinished": unfinished, "warnings": warnings, "command": retry_command,
            "total": len(sweep.records.runs)}  # fmt: skip


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:])


def _display_path(path: Path, sweep: SweepData) -> str:
    """From the results folder, so that a report is the same wherever it lies."""
    return str(path.relative_to(sweep.results)) if path.is_relative_to(sweep.results) else str(path)


SECTIONS: dict[str, Callable[[SweepData], dict[str, Any]]] = {
    "question": _question,
    "answers": _answers,
    "variants": _variants,
    "drawings": _drawings,
    "results": _results,
    "systematization": _systematization,
    "paper": _paper,
    "costs": _costs,
    "failures": _failures,
    "environment": provenance_sections.environment,
    "reproduce": provenance_sections.reproduce,
}
