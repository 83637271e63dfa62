"""A dry run: what a sweep would run and how its runs differ, how large they are, what is done, measured or missing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.common import disk
from bench.common.console import print_json
from bench.common.errors import UserError
from bench.common.labels import terminal
from bench.execution.estimates import print_estimates
from bench.runs.folder import RunFolder, run_folder, runs_folder
from bench.runs.states import State

if TYPE_CHECKING:
    from bench.config import Run, Sweep
    from bench.config.schema import RunSpec

SPLITS = ("training", "validation", "evaluation")
NOT_SWEPT = "*"  # marks a field that differs although the spec does not sweep it
FACTS = {  # heading → the fields that it prints
    "steps": ("train.steps",),
    "batch": ("train.batch", "train.micro_batch"),
    "learning rate": ("train.learning_rate", "train.final_learning_rate"),
    "precision": ("model.precision", "train.matmul_precision"),
    "data": ("data.name", "data.root", *(f"data.{split}_scenes" for split in SPLITS)),
    "seeds": ("seed",),
}
MEASURED = ("step_time_ms", "host_peak_memory_gib", "reserved_peak_memory_gib", "device", "world")  # of profiles


def print_dry_run(
    sweep: Sweep, chosen: Sequence[Run], as_json: bool, console: Console, folder: Path, ranks: int = 1,
    estimates: Sequence[Mapping[str, Any]] | None = None,
) -> None:  # fmt: skip
    """Print it, parameters counted as the paper does; red is what would keep a run from starting. `folder`: the
    sweep's; `ranks`: the number of processes that share a run's batch; `estimates`, one a run: those of
    bench.execution.estimates."""
    from bench.analysis.formatting import millions
    from bench.profiling.proportions import compact

    rows = dry_run_rows(sweep, chosen, folder.parent, ranks)
    if estimates is not None:
        rows = [{**row, **estimate} for row, estimate in zip(rows, estimates, strict=True)]
    if as_json:
        print_json(rows)
        return
    title = f"{' '.join([sweep.name, *sweep.overrides])}, scale {sweep.scale}: {len(rows)} runs"
    table = Table(
        box=box.SIMPLE_HEAD, padding=0, title=escape(terminal(title)), caption=escape(terminal(sweep.question))
    )
    for heading, no_wrap in (("run", False), ("id", True), ("state", False)):
        table.add_column(heading, no_wrap=no_wrap, overflow="fold")
    for heading in ("Params.", "E", "A", "D", "tokens a scene"):
        table.add_column(heading, justify="right", no_wrap=heading != "tokens a scene")
    for row in rows:
        counts = [millions(row["parameters"][part]) for part in ("total", "encoder", "aggregator", "head")]
        cells = [escape(terminal(row["label"])), row["id"], row["state"], *counts, f"{row['tokens_per_scene']:,}"]
        table.add_row(*cells, style="red" if row["missing_files"] else None)
    console.print(table)
    states = ", ".join(f"{count} {state}" for state, count in Counter(row["state"] for row in rows).items())
    groups = _groups(rows)
    lines: list[tuple[str, str | None]] = [(text, None) for text in _settings(groups, sweep.reference, ranks)]
    if any(row["not_swept"] for row in rows):
        lines.append((f"{NOT_SWEPT} differs although the spec does not sweep it", "yellow"))
    lines.append((f"State: {states}", None))
    lines += [(text, None) for text in compact(sweep)]
    lines += [(_measurement(name, seeds[0]), None) for name, seeds in groups.items() if seeds[0]["measured"]]
    lines += [(f"Results: {folder.resolve()}", None), (_disk(rows, folder.parent), None)]
    lines += [(text, "yellow") for text in dict.fromkeys(text for row in rows for text in row["shortfalls"])]
    lines += [(text, "red") for text in dict.fromkeys(text for row in rows for text in row["missing_files"])]
    for text, style in lines:
        console.print(escape(terminal(text)), style=style, highlight=False, soft_wrap=True)
    if estimates is not None:
        print_estimates(rows, console)


def dry_run_rows(sweep: Sweep, chosen: Sequence[Run], results: Path, ranks: int = 1) -> list[dict[str, Any]]:
    """The rows of `describe` with what is known on this machine, ready for JSON.

    Added are "state", "differences" {field: value} from the reference run and which of them are "not_swept", "scenes"
    {split: count or None}, "shortfalls" (sentences), "batch_per_rank" and "measured" ({"run", the numbers of MEASURED}
    or None).
    """
    from bench.analysis.sweep_results import resolved_fields
    from bench.analysis.variants import field_differences
    from bench.config import describe

    described = {row["id"]: row for row in describe(sweep)}
    reference = next(row for row in described.values() if row["label"] == sweep.reference)
    profiles, counted = _profiles(results), dict[Any, tuple[dict[str, int | None], str | None]]()
    rows = []
    for run in chosen:
        row = described[run.id]
        fields, usual = (resolved_fields(r["spec"]) | {"seed": r["spec"]["seed"]} for r in (row, reference))
        of_base = dict.fromkeys(fields.keys() & usual.keys()) if row["base"] != reference["base"] else {}
        differences = field_differences(fields, usual, [of_base | row["settings"], reference["settings"]])
        data = run.spec.data, run.spec.model.image_size
        counted[data] = counted.get(data) or _scenes(run.spec)
        scenes, problem = counted[data]
        requested, available = run.spec.evaluation.scenes, scenes["evaluation"]
        shortfalls = [problem] if problem else []
        if requested and available is not None and requested > available:
            shortfalls.append(f"evaluation.scenes asks for {requested} scenes, there are {available}")
        rows.append({
            **row,
            "state": _state(run_folder(results, run.id)),
            "differences": {difference.field: difference.value for difference in differences},
            "not_swept": [difference.field for difference in differences if not difference.swept],
            "scenes": scenes, "shortfalls": shortfalls, "batch_per_rank": run.spec.train.batch // ranks,
            "measured": profiles.get(_cost_key(row["spec"])),
        })  # fmt: skip
    return rows


def _state(folder: RunFolder) -> str:
    """As recorded, with the stage; "begun" where the record was deleted and results are there."""
    status = folder.status()
    begun = status.state is State.PLANNED and (folder.training() is not None or folder.checkpoints())
    return f"{status.state} ({status.phase})" if status.phase else "begun" if begun else str(status.state)


def _scenes(spec: RunSpec) -> tuple[dict[str, int | None], str | None]:
    """{split: how many}, of files only where they can be read; and why they cannot."""
    from bench.data.sampler import open_source

    if hasattr(spec.data, "training_scenes"):
        return {split: getattr(spec.data, f"{split}_scenes") for split in SPLITS}, None
    if spec.data.missing() if hasattr(spec.data, "missing") else ():
        return dict.fromkeys(SPLITS), None
    try:
        source = open_source(spec.data, spec.model.image_size)
        return {split: len(source.scenes(split)) for split in SPLITS}, None  # type: ignore[arg-type]
    except (UserError, OSError) as error:
        return dict.fromkeys(SPLITS), str(error)


def _cost_key(spec: Mapping[str, Any]) -> str:
    """What decides the time and memory of a training step."""
    from bench.config.schema import TrainSpec, cost_switches

    train, views = spec["train"], spec["views"]
    switches = {name: train.get(name, value) for name, value in cost_switches(TrainSpec()).items()}
    keys = [spec["model"], train["batch"], train.get("compile", False), switches, views["inputs"],
            views.get("training_targets") or views["targets"], sorted(spec["losses"])]  # fmt: skip
    return json.dumps(keys, sort_keys=True)


def _profiles(results: Path) -> dict[str, dict[str, Any]]:
    """Cost key → a measurement of it among all runs of this results folder; damaged folders are passed over."""
    measured: dict[str, dict[str, Any]] = {}
    for path in sorted(runs_folder(results).glob("*/profiles")):
        folder = RunFolder(path.parent)
        try:
            for profile in folder.profiles().values():
                key = _cost_key(folder.spec())
                measured[key] = {"run": folder.id, **{name: profile.get(name) for name in MEASURED}}
        except (UserError, OSError, KeyError, TypeError):
            continue
    return measured


def _groups(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Setting → its seeds."""
    from bench.analysis.sweep_results import group_names

    names, groups = group_names({row["id"]: row for row in rows}), dict[str, list[Mapping[str, Any]]]()
    for row in rows:
        groups.setdefault(names[row["id"]], []).append(row)
    return groups


def _settings(groups: Mapping[str, Sequence[Mapping[str, Any]]], reference: str, ranks: int) -> Iterator[str]:
    """What all settings have in common, then those that differ from the reference's; a setting's seeds are one line."""
    facts = {name: _facts(group, ranks) for name, group in groups.items()}
    first = next(iter(facts.values()))
    varying = [heading for heading in first if len({fact[heading] for fact in facts.values()}) > 1]
    common = "; ".join(f"{heading} {fact}" for heading, fact in first.items() if heading not in varying)
    yield f"{'All runs' if sum(map(len, groups.values())) > 1 else 'The run'}: {common}"
    if len(groups) < 2:
        return
    usual = next((name for name, seeds in groups.items() if reference in [row["label"] for row in seeds]), reference)
    yield f"Differences from {usual}:"
    for name, group in groups.items():
        unswept = [heading for heading in varying if any(_is_in(field, heading) for field in group[0]["not_swept"])]
        details = [f"{h}{NOT_SWEPT if h in unswept else ''} {facts[name][h]}" for h in varying]
        if details := list(filter(None, [_differences(group[0], ["seeds", *varying]), *details])):
            yield f"- {name}: {'; '.join(details)}"


def _facts(seeds: Sequence[Mapping[str, Any]], ranks: int) -> dict[str, str]:
    """What decides the cost and the result of a setting, of which these are the seeds: heading → text."""
    row = seeds[0]
    train, precision, scenes = row["spec"]["train"], row["spec"]["model"]["precision"], row["scenes"]
    batch = f"{train['batch']}" + (f" ({row['batch_per_rank']} a process)" if ranks > 1 else "")
    if train["micro_batch"]:
        batch += f" in micro-batches of {train['micro_batch']}"
    parts = ", ".join(f"{part[0].upper() if part != 'head' else 'D'} {dtype}" for part, dtype in precision.items())
    kinds = set(precision.values())
    data = row["spec"]["data"]
    counts = ", ".join(f"{count:,} {split}" for split, count in scenes.items() if count is not None)
    return {
        "steps": f"{train['steps']:,}",
        "batch": batch,
        "learning rate": f"{train['learning_rate']:g} → {train['final_learning_rate']:g}",
        "precision": f"{kinds.pop() if len(kinds) == 1 else parts}, matmul {train['matmul_precision']}",
        "data": f"{data['name']} {data.get('root') or ''}".strip() + (f" ({counts} scenes)" if counts else ""),
        "seeds": ", ".join(str(row["spec"]["seed"]) for row in seeds),
    }


def _is_in(field: str, heading: str) -> bool:
    """Whether the fact of this heading prints the field."""
    return any(f"{field}.".startswith(f"{printed}.") for printed in FACTS[heading])


def _differences(row: Mapping[str, Any], headings: Sequence[str]) -> str:
    """The fields in which a run differs from the reference, without those that the facts of these headings print."""
    fields = {f: value for f, value in row["differences"].items() if not any(_is_in(f, h) for h in headings)}
    names = {field: field.removesuffix(".name").removeprefix("model.") for field in fields}
    marks = {field: NOT_SWEPT if field in row["not_swept"] else "" for field in fields}
    return ", ".join(f"{names[field]} {value}{marks[field]}" for field, value in fields.items())


def _measurement(name: str, row: Mapping[str, Any]) -> str:
    """Of the same model, batch, views and losses, in this or another run."""
    measured, steps = row["measured"], row["spec"]["train"]["steps"]
    memory = measured["reserved_peak_memory_gib"] or measured["host_peak_memory_gib"]
    kind = "GPU" if measured["reserved_peak_memory_gib"] else "host"
    text = f"Measured for {name}: {measured['step_time_ms']:.0f} ms a step"
    text += f", {memory:.1f} GiB of {kind} memory" if memory else ""
    minutes = measured["step_time_ms"] * steps / 60_000
    device = f"{measured['world']} × {measured['device']}"
    return f"{text}, so {minutes:.3g} min for {steps:,} steps (run {measured['run']}, {device})"


def _disk(rows: Sequence[Mapping[str, Any]], results: Path) -> str:
    """What the whole sweep takes on disk, one run at a time, and how much is free."""
    largest = max(row["disk_bytes"]["training"] for row in rows)
    final_size = sum(row["disk_bytes"]["kept"] for row in rows)
    return (
        f"Disk: at most {disk.format_bytes(largest)} while a run trains (two checkpoints with Adam's moments), "
        f"{disk.format_bytes(final_size)} of weights afterwards; "
        f"{disk.format_bytes(disk.free_bytes(results))} free in {results.resolve()}"
    )
