"""`python -m bench.run SPEC`: a question in YAML → trained and evaluated runs, tables and figures.

Run it again and it goes on where it stopped; nothing that is finished is done twice.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from dataclasses import asdict, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from bench.errors import BadInput, run_command
from bench.record import STATES, Status, commit, run_folder, runs_folder, write_json

if TYPE_CHECKING:
    from bench.spec import Run, Sweep

OK, SOME_FAILED = 0, 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    add = parser.add_argument
    add("spec", type=Path, help="a YAML file of ablations/")
    add("overrides", nargs="*", metavar="key=value", help="any field of the spec, e.g. train.steps=100")
    add("--scale", default="tiny", choices=("tiny", "small", "paper"), help="default: tiny, for a laptop")
    add("--dry-run", action="store_true", help="print the runs, their sizes and what is missing; train nothing")
    add("--json", action="store_true", help="with --dry-run: a JSON list, one object a run")
    add("--only", metavar="PATTERN", help="only runs whose label or id matches, e.g. 'Ours*'")
    add("--retry", metavar="STATES", default="", help="also try these again: failed, oom, nan")
    add("--force", action="store_true", help="move finished runs aside and do them again")
    add("--overfit", type=int, metavar="N", help="memorise N scenes, the first test of a new part; fails below 28 dB")
    add("--device", help="cpu or cuda; default: cuda if there is one")
    add("--jobs", type=int, default=1, help="runs at once (default 1)")
    add("--threads", type=int, help="CPU threads of a run (default: all cores / jobs)")
    add("--results", type=Path, default=Path("results"), help="where results go (default results/)")
    return parser.parse_intermixed_args()


def main() -> int:
    options = parse()
    if unknown := [word for word in options.overrides if "=" not in word]:
        raise BadInput(f"{unknown[0]!r} is not key=value")
    retry = [word for word in options.retry.split(",") if word]
    if wrong := [word for word in retry if word not in STATES]:
        raise BadInput(f"--retry {wrong[0]}: no such state; it may be {', '.join(STATES)}")
    if options.jobs < 1 or (options.threads or 1) < 1:
        raise BadInput("--jobs and --threads are at least 1")
    from bench import spec

    overrides = list(options.overrides)
    if options.overfit is not None:
        overrides = _overfit_overrides(options.overfit) + overrides
    sweep = spec.load(options.spec, overrides, options.scale)
    if options.overfit is not None:
        sweep = replace(sweep, overrides=(f"overfit={options.overfit}", *options.overrides))
    if options.only:
        runs = [run for run in sweep.runs if any(fnmatch(name, options.only) for name in (run.label, run.id))]
        if not runs:
            raise BadInput(f"--only {options.only!r} matches none of: {', '.join(run.label for run in sweep.runs)}")
        sweep = replace(sweep, runs=runs)
    console = Console()
    if options.dry_run:
        return dry_run(sweep, options.json, console)
    return carry_out(sweep, options, retry, console)


def dry_run(sweep: Sweep, as_json: bool, console: Console) -> int:
    """What would run."""
    from bench.spec import describe

    rows = describe(sweep)
    if as_json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return OK
    table = Table(title=f"{sweep.name}, scale {sweep.scale}: {len(rows)} runs", caption=sweep.question)
    for heading in ("id", "label"):
        table.add_column(heading, no_wrap=True)
    for heading in ("Params.", "E", "A", "D", "tokens a scene"):
        table.add_column(heading, justify="right")
    for row in rows:
        counts = [_printed(row["parameters"][part]) for part in ("total", "encoder", "aggregator", "head")]
        table.add_row(row["id"], row["label"], *counts, f"{row['tokens_per_scene']:,}")
    console.print(table)
    for sentence in dict.fromkeys(text for row in rows for text in row["missing_files"]):
        console.print(sentence, style="red")
    return OK


def carry_out(sweep: Sweep, options: argparse.Namespace, retry: list[str], console: Console) -> int:
    """Run what is missing, then tables and figures of all."""
    from bench import spec

    if missing := {text for run in sweep.runs for text in spec.missing_files(run.spec)}:
        raise BadInput("\n".join(sorted(missing)))
    results: Path = options.results
    folder = results / sweep.folder
    device = _device(options.device)
    if options.force:
        from bench.launch import archive

        archive(sweep.runs, results)
    states = _train(sweep, options, device, retry, console)
    record(sweep, folder, results)
    from bench import figures, tables

    written = tables.write(folder, results) + figures.write(folder, results)
    _show(written, console)
    passed = _judge_overfit(sweep, results, device, console) if options.overfit is not None else True
    bad = [run.label for run in sweep.runs if states[run.id].state != "done"]
    return OK if passed and not bad else SOME_FAILED


def _train(
    sweep: Sweep, options: argparse.Namespace, device: str, retry: list[str], console: Console
) -> dict[str, Status]:
    from bench.launch import Launcher, prepare
    from bench.progress import SweepProgress

    results: Path = options.results
    prepare(sweep.runs, results)
    steps = {run.id: run.spec.train.steps for run in sweep.runs}
    progress = SweepProgress(console, runs_folder(results), steps)

    def report(run: Run, status: Status) -> None:
        if status.state == "done":
            console.print(f"[green]done[/]  {run.label}  ({run.id})", highlight=False)
        else:
            log = run_folder(results, run.id).path / "log.txt"
            text = f"[red]{status.state}[/]  {run.label}  in {status.phase}: {status.message}  (log: {log})"
            console.print(text, highlight=False)

    threads = options.threads or max(1, (os.cpu_count() or 1) // options.jobs)
    launcher = Launcher(results, device, threads, options.jobs, retry, report, progress.update)
    todo = [run for run in sweep.runs if not launcher.ended(run)]
    skipped = len(sweep.runs) - len(todo)
    console.print(f"{sweep.name}, scale {sweep.scale}: {len(todo)} of {len(sweep.runs)} runs to do", highlight=False)
    if skipped:
        console.print(f"{skipped} ended before; --retry failed,oom,nan tries bad ends again", style="dim")
    _prepare_data(todo)
    with progress:
        return launcher.run(sweep.runs)


def _prepare_data(runs: list[Run]) -> None:
    """Generate or check each data set once, here, with progress, before runs read it."""
    from bench.data.sampler import open_source

    seen = set()
    for run in runs:
        key = (run.spec.data, run.spec.model.image_size)
        if key not in seen:
            seen.add(key)
            open_source(run.spec)


def record(sweep: Sweep, folder: Path, results: Path) -> None:
    """sweep.json, runs.jsonl (one line a run) and environment.json."""
    from bench.spec import describe

    lines = []
    for row in describe(sweep):
        status = run_folder(results, row["id"]).status()
        kept = {key: row[key] for key in ("id", "label", "scale", "settings", "parameters", "tokens_per_scene", "spec")}
        lines.append(json.dumps(kept | asdict(status), ensure_ascii=False))
    commit(folder / "runs.jsonl", lambda path: _write(path, "\n".join(lines) + "\n"))
    head = {"name": sweep.name, "scale": sweep.scale, "question": sweep.question, "overrides": list(sweep.overrides)}
    write_json(folder / "sweep.json", head)
    write_json(folder / "environment.json", environment())


def environment() -> dict[str, Any]:
    """What the numbers were made with."""
    import torch

    from bench import lpips_weights
    from bench.measure import commit as source_commit
    from bench.measure import device_name

    return {
        "commit": source_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "processor": device_name(torch.device("cpu")),
        "cores": os.cpu_count(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "lpips": {net: lpips_weights.available(net) for net in lpips_weights.NETS},
    }


def _overfit_overrides(scenes: int) -> list[str]:
    if scenes < 1:
        raise BadInput("--overfit needs at least one scene")
    from bench.overfit import overrides

    return overrides(scenes)


def _judge_overfit(sweep: Sweep, results: Path, device: str, console: Console) -> bool:
    """Print each run's verdict; whether all passed."""
    import torch

    from bench import overfit
    from bench.data.sampler import open_source

    passed = True
    for run in sweep.runs:
        folder = run_folder(results, run.id)
        if folder.status().state == "done":
            source = open_source(run.spec)
            verdict = overfit.check(run.spec, folder.path, device=torch.device(device), source=source)
            console.print(f"{run.label}: {verdict}", highlight=False)
            passed = passed and verdict.passed
    return passed


def _show(written: list[Path], console: Console) -> None:
    """The main table, and where everything lies."""
    for path in written:
        if path.name == "table.md":
            console.print(path.read_text(encoding="utf-8"), markup=False, highlight=False, soft_wrap=True)
    for path in written:
        console.print(str(path), style="dim", highlight=False, soft_wrap=True)


def _device(name: str | None) -> str:
    """Raises BadInput for one that is not there."""
    import torch

    there = torch.cuda.is_available()
    if name is None:
        return "cuda" if there else "cpu"
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise BadInput(f"--device {name}: it may be cpu or cuda")
    if name.startswith("cuda") and not there:
        raise BadInput("--device cuda: this machine has no CUDA device that torch can use")
    return name


def _printed(count: int) -> str:
    """Truncated to millions, as the paper prints: 307,941,824 → 307M; thousands below ten million."""
    return f"{count // 10**6}M" if count >= 10**7 else f"{count // 1000:,}K"


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
