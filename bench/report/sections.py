"""The sections of a report: what each template needs, gathered from a sweep's records."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench import figures
from bench.analysis import deviations, paper, tables
from bench.analysis.deviations import group_by_value, text
from bench.common.errors import UserError
from bench.report.html import (
    Grid,
    Html,
    Line,
    css,
    grid,
    render,
)
from bench.runtime import provenance

if TYPE_CHECKING:
    from bench.analysis.sweep_results import SweepRun
    from bench.report.notebook_api import SweepReport

LOG_LINES = 12
CAPTIONS = {
    "loss_curves": "Each term of the loss (eq. 6) against the training step, as in the paper's Fig. 3. Faint: as "
    "recorded; strong: running mean over 4 % of the steps; shaded: steps with L_3D alone; bands: range between seeds.",
    "qualitative": "Inputs, true and rendered target views; right, the depth of the first input view's Gaussians "
    "inside the true mask, as the paper's Fig. 2, beside the true depth. One depth scale a scene.",
    "comparison": "Quality and step time at a glance; lines are the baselines of the same scenes and views.",
    "time_by_part": "Where a training step's time goes, part by part, by the clock and apart from the step time above.",
}
EMPTY = {
    "loss_curves": "No run has recorded a training step yet.",
    "qualitative": "No run has been evaluated yet, so there are no pictures.",
    "comparison": "No run has been evaluated yet.",
    "time_by_part": "No run was traced: profile.trace=true does it, for finished runs too.",
}
HEADINGS = {"psnr": "PSNR ↑", "ssim": "SSIM ↑", "lpips": "LPIPS ↓", "lpips_vgg": "LPIPS (VGG) ↓",
            "lpips_alex": "LPIPS (Alex) ↓", "parameters_millions": "Params.", "parameters_total": "Params.",
            "gpu_gb": "GPU [GB]", "measured/reserved_peak_memory_gib": "GPU mem. [GiB]"}  # fmt: skip


def render_section(sweep: SweepReport, section: str) -> Html:
    """Raises UserError naming the sections."""
    if section not in SECTIONS:
        raise UserError(f"no section {section!r} in a report: choose from {', '.join(SECTIONS)}")
    html = render(section, {"sweep": sweep, "here": f"here, scale {sweep.scale}", **SECTIONS[section](sweep)})
    return Html(html, f"<{section} of {sweep!r}>")


def figure(sweep: SweepReport, name: str) -> Html:
    """Raises UserError naming the figures."""
    if name not in CAPTIONS:
        raise UserError(f"no figure {name!r} in a report: choose from {', '.join(CAPTIONS)}")
    values = {"figures": _drawn(sweep, name), "empty": EMPTY[name], "folded": []}
    return Html(render("figures", values), f"<{name} of {sweep!r}>")


def _drawn(sweep: SweepReport, name: str) -> list[tuple[Path, str]]:
    """The figure with its caption, where there is one."""
    paths = [sweep.folder / "figures" / f"{name}.{suffix}" for suffix in ("svg", "png")]
    return [(path, CAPTIONS[name]) for path in paths if path.is_file()][:1]


def _question(sweep: SweepReport) -> dict[str, Any]:
    states = Counter(sweep.status(entry).state for entry in sweep.read.entries)
    tiny = sweep.scale == "tiny" and any(entry.line.get("steps") != 0 for entry in sweep.read.entries)
    return {
        "css": css("pieces"), "states": dict(states), "total": sum(states.values()), "told": sweep.read.sweep,
        "command": _command(sweep), "evidence": tables.TINY if tiny else "",
    }  # fmt: skip


def _variants(sweep: SweepReport) -> dict[str, Any]:
    lines = [Line(_variant(label, entries, sweep)) for label, entries in sweep.read.groups().items()]
    head = ["setting", "E", "A (blocks, patch)", "D", "output", "tokens a scene", "Params.", "steps", "seeds", "status"]
    specs = sweep.specs
    keys = list(dict.fromkeys(key for fields in specs.values() for key in fields))
    told = {key: [text(fields[key]) if key in fields else "–" for fields in specs.values()] for key in keys}
    differ = {key: values for key, values in told.items() if len(set(values)) > 1}
    return {
        "variants": Grid(head, lines, (0, 1, 2, 3, 4, 9)),
        "differ": Grid(["field", *specs], [Line([key, *values]) for key, values in differ.items()]),
        "shared": Grid(["field", "value"], [Line([k, v[0]]) for k, v in told.items() if k not in differ], (0, 1)),
    }


def _variant(label: str, entries: Sequence[SweepRun], sweep: SweepReport) -> list[str]:
    fields, line = sweep.specs[label], entries[0].line
    blocks, patch = (fields.get(f"model.{key}") for key in ("aggregator.blocks", "encoder.patch"))
    parts = [str(fields.get(f"model.{part}.name", "")) for part in ("encoder", "aggregator", "head", "output")]
    parts[1] += f" ({blocks}, {patch})" if blocks else ""
    tokens, steps = line.get("tokens_per_scene"), fields.get("train.steps")
    seeds = ", ".join(str(entry.line["seed"]) for entry in entries if "seed" in entry.line)
    states = Counter(sweep.status(entry).state for entry in entries)
    status = "; ".join(state if len(entries) == 1 else f"{count} {state}" for state, count in states.items())
    counts = tables.millions((line.get("parameters") or {}).get("total"))
    return [label, *parts, *(f"{n:,}" if n else "" for n in (tokens,)), counts, f"{steps:,}" if steps else "", seeds,
            status]  # fmt: skip


def _drawings(sweep: SweepReport) -> dict[str, Any]:
    """Of each distinct model, by the first setting that has it."""
    drawn = {sweep.folder / "figures" / figures.diagram_name(label): label for label in sweep.read.groups()}
    named = [(path, label) for path, label in drawn.items() if path.is_file()]
    return {"figures": named[:1], "folded": named[1:], "empty": "No drawing: no run's spec is recorded here."}


def _results(sweep: SweepReport) -> dict[str, Any]:
    found = []
    for shown in sweep.shown():
        cells = shown.cells.loc[:, (shown.cells != "").any()]
        kinds = [status if status in ("baseline", "oracle") else "run" for status in cells["Status"]]
        told = [remark for remark in shown.remarks if remark != tables.TINY]  # it stands below the question
        found.append((shown, grid(cells.assign(kind=kinds), {cells.columns[0], "Status"}, kind="kind"), told))
    return {"tables": found}


def _paper(sweep: SweepReport) -> dict[str, Any]:
    beside, differing = sweep.paper(), sweep.deviations()
    columns: list[Any] = list(beside.columns)
    models = list(beside["model", ""])
    lines = [(models.count(row[0]) if row[0] not in models[:i] else 0,
              [_number(what, value) for (_, what), value in zip(columns, row, strict=True)])
             for i, row in enumerate(beside.itertuples(index=False, name=None))]  # fmt: skip
    stated = {item.field: item.words for item in paper.RECIPE}
    return {
        "lines": lines,
        "headings": [HEADINGS.get(what, what) for _, what in columns][1:],
        "printed": sum(whose == "paper" for whose, _ in columns),
        "experiment": ", ".join([stated["model.image_size"], stated["train.steps"], paper.HARDWARE]),
        "deviations": grid(differing.drop(columns="aspect"), set(differing.columns)),
        "aspects": list(dict.fromkeys(differing["aspect"])),
        "kept": deviations.matched_settings(sweep),
        "open": grid(left := deviations.unspecified_by_paper(sweep), set(left.columns)),
    }


def _number(name: str, value: Any) -> str:
    if value is None or pd.isna(value):
        return ""
    if name == "parameters_millions":
        return f"{value:.0f}M"
    if name == "parameters_total":
        return tables.millions(int(value))
    decimals = {"psnr": 1, "gpu_gb": 0, "measured/reserved_peak_memory_gib": 1}.get(name, 3)
    return str(value) if isinstance(value, str) else f"{value:.{decimals}f}"


def _costs(sweep: SweepReport) -> dict[str, Any]:
    found = sweep.costs()
    profiles = [p for entry in sweep.read.entries for p in entry.folder.profiles().values()]
    definitions = dict(d for p in profiles for d in p["definitions"].items())
    notes = ["Params. are trained parameters: the paper's Table 3 counts the same, truncated to millions."]
    notes += [f"{name}: {definition}." for name, definition in definitions.items()]
    rows = found.to_dict("records")
    first = next((row["step_time_ms"] for row in rows if not pd.isna(row.get("step_time_ms"))), None)
    cells = pd.DataFrame([_cost(row, first) for row in rows], columns=COSTS)
    cells = cells.loc[:, (cells != "").any()]
    measured = {row["label"]: told for row in rows if (told := _measured_on(row))}
    return {"costs": grid(cells, {"run"}), "definitions": notes, "measured": group_by_value(measured, list(measured)),
            "by_part": _drawn(sweep, "time_by_part")}  # fmt: skip


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


def _failures(sweep: SweepReport) -> dict[str, Any]:
    ended, unfinished, warned = [], [], []
    for entry in sweep.read.entries:
        status, log = sweep.status(entry), entry.folder.path / "log.txt"
        last = status.trace or (_tail(log) if log.is_file() else "")
        if not status.state.is_terminal:
            unfinished.append((entry, status))
        elif status.state.failed:
            ended.append((entry, status, last, _shown_path(log, sweep) if log.is_file() else ""))
        warned += [(entry, warning) for warning in (entry.folder.training() or {}).get("warnings", [])]
    retry = sorted({status.state for _, status, _, _ in ended if status.state.needs_retry})
    command = _command(sweep)
    command += f" --retry {','.join(retry)}" if retry and command else ""
    return {"ended": ended, "unfinished": unfinished, "warned": warned, "command": command,
            "total": len(sweep.read.entries)}  # fmt: skip


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:])


def _shown_path(path: Path, sweep: SweepReport) -> str:
    """From the results folder, so that a report says the same wherever it lies."""
    return str(path.relative_to(sweep.results)) if path.is_relative_to(sweep.results) else str(path)


def _environment(sweep: SweepReport) -> dict[str, Any]:
    """Line by line what the sweep and the stages of its runs recorded; a run's name stands for all its stages."""
    recorded: dict[str, Mapping[str, Any]] = {"the sweep": sweep.read.environment}
    for entry in sweep.read.entries:
        recorded |= {f"{entry.label}: {stage}": record for stage, record in entry.provenance.items() if record}
    names = dict.fromkeys(name for record in recorded.values() for name in record)
    lines = []
    for name in (name for name in names if name not in ("schema_version", "time", "sessions")):
        told = {who: _setting(record[name]) for who, record in recorded.items() if name in record}
        for entry in sweep.read.entries:
            stages = [f"{entry.label}: {stage}" for stage in entry.provenance if f"{entry.label}: {stage}" in told]
            if len({told[who] for who in stages}) == 1:
                told[entry.label] = told[stages[0]]
                for who in stages:
                    del told[who]
        runs = "; ".join(who for who in told if who != "the sweep")
        lines += [
            Line([name, value, {runs: "the runs"}.get(who, who)]) for value, who in group_by_value(told, list(told))
        ]
    return {"environment": Grid(["", "value", "of"], lines, (0, 1, 2))}


def _setting(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_setting(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "–" if value is None else str(value)


def _reproduce(sweep: SweepReport) -> dict[str, Any]:
    """The command as it was given, the commit, and each run's id with the commits that its stages ran at."""
    entries = sweep.read.entries
    commits = provenance.by_commit({entry.label: entry.provenance for entry in entries})
    records = [record for entry in entries for record in entry.provenance.values()] + [sweep.read.environment]
    commit = next((record["commit"] for record in records if record.get("commit")), "")
    rows = []
    for entry in sweep.read.entries:
        fields = sweep.specs[entry.group]
        data = " ".join(str(fields[key]) for key in ("data.name", "data.version") if key in fields)
        own = provenance.by_commit({"": entry.provenance})
        told = "; ".join(label + (f" ({', '.join(s.removeprefix(': ') for s in stages)})" if len(own) > 1 else "")
                         for label, stages in own.items())  # fmt: skip
        rows.append(Line([entry.label, entry.id, str(entry.line.get("seed", "")), data, told]))
    labels = list(commits) or provenance.commit_labels(sweep.read.environment)
    return {"commit": commit.rstrip("+"), "several": len({label.rstrip("+") for label in labels}) > 1,
            "changed": any(label.endswith("+") for label in labels), "command": _command(sweep),
            "spec_file": tables.spec_file_remark(sweep.read),
            "ids": Grid(["run", "id", "seed", "data", "commit"], rows, range(5))}  # fmt: skip


def _command(sweep: SweepReport) -> str:
    """As it was given; empty if the sweep does not tell its spec."""
    told = sweep.read.sweep
    if "spec" not in told:
        return ""
    words = ["python", "-m", "bench.run", told["spec"], *told.get("overrides", [])]
    return shlex.join(words + ([] if sweep.scale == "tiny" else ["--scale", sweep.scale]))


SECTIONS: dict[str, Callable[[SweepReport], dict[str, Any]]] = {
    "question": _question,
    "variants": _variants,
    "drawings": _drawings,
    "results": _results,
    "paper": _paper,
    "costs": _costs,
    "failures": _failures,
    "environment": _environment,
    "reproduce": _reproduce,
}
