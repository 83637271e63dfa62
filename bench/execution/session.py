"""A sweep run from this machine: what is missing is trained, then recorded, tabulated and reported."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from bench.common import disk
from bench.common.console import progress
from bench.common.environment import cores
from bench.common.errors import UserError
from bench.common.exit_codes import DONE, SOME_FAILED, STOPPED
from bench.execution.launcher import (
    Launcher,
    Task,
    archive_run,
    needs_work,
)
from bench.execution.options import RunOptions
from bench.runs.folder import Status, run_folder, write_sweep
from bench.runs.states import State

if TYPE_CHECKING:
    from bench.config import Run, Sweep
    from bench.data.scene import DataSource


class Session:
    """One call of the command."""

    def __init__(self, sweep: Sweep, chosen: Sequence[Run], options: RunOptions, folder: str, console: Console) -> None:
        self.sweep, self.chosen, self.options, self.console = sweep, chosen, options, console
        self.results = options.results
        self.folder = self.results / folder
        self.threads = options.threads or max(1, cores() // options.jobs)
        self.device = resolve_device(options.device)

    def run(self) -> int:
        tasks = [task_of(run, self.results) for run in self.chosen]
        if self.options.force:
            for moved in filter(None, [archive_run(task) for task in tasks]):
                self._say(f"put aside: {moved}")
        left = [task for task in tasks if needs_work(task, self.options.retry)]
        self._announce(tasks, left)
        self.verify_data_unchanged(tasks)
        self.prepare([run for run, task in zip(self.chosen, tasks, strict=True) if task in left])
        states, stopped = self._launch(tasks, len(left))
        lines = self.record()
        if stopped:
            self._say("stopped; run the same command again to go on")
            return STOPPED
        self.report()
        passed = self._verdicts(tasks) if self.options.overfit else True
        if self.options.json:
            print(json.dumps(lines, indent=1, ensure_ascii=False))
        return DONE if passed and all(status.state is State.DONE for status in states.values()) else SOME_FAILED

    def _announce(self, tasks: Sequence[Task], left: Sequence[Task]) -> None:
        from bench.config.source_hash import changed_sources

        self._say(f"{self.sweep.name}, scale {self.sweep.scale}: {len(left)} of {len(tasks)} runs to do")
        for run, task in zip(self.chosen, tasks, strict=True):
            if files := changed_sources(run.spec, (task.folder.training() or {}).get("code", {})):
                text = f"{task.label}: {', '.join(files)} changed since this run was trained; --force trains it anew"
                self._say(text, "yellow")
        for task in tasks:
            status = task.folder.status()
            if status.state.needs_retry and task not in left:
                log = task.folder.path / "log.txt"
                self._say(
                    f"{task.label}: {status.state} before; --retry {status.state} tries again (log: {log})", "red"
                )

    def verify_data_unchanged(self, tasks: Sequence[Task]) -> None:
        """Of runs that are trained and now asked for with other paths to their data. Raises UserError."""
        from bench.data.sampler import open_source
        from bench.evaluation.scene_record import resolve_splits, verify_unchanged

        for run, task in zip(self.chosen, tasks, strict=True):
            if task.folder.scenes() and task.folder.spec()["data"] != task.spec["data"]:
                source = open_source(run.spec.data, run.spec.model.image_size)
                verify_unchanged(resolve_splits(run.spec, source), task.folder, source)

    def prepare(self, runs: Sequence[Run]) -> None:
        """All that can be found wrong before training starts; scenes are generated here, once, with progress."""
        from bench.data.sampler import open_source
        from bench.evaluation import scene_record
        from bench.training import initialization

        untrained = [run for run in runs if run_folder(self.results, run.id).training() is None]
        if wrong := dict.fromkeys(text for run in untrained for text in initialization.find_problems(run.spec)):
            raise UserError("\n".join(wrong))
        self._room(runs)
        sources: dict[Any, DataSource] = {}
        for run in runs:
            key = run.spec.data, run.spec.model.image_size
            sources[key] = sources.get(key) or open_source(run.spec.data, run.spec.model.image_size)
            scene_record.preflight(run.spec, sources[key])

    def _room(self, runs: Sequence[Run]) -> None:
        """For all runs to do, as many at once as asked for. Raises UserError."""
        from bench.config import describe

        ids = {run.id for run in runs}
        prices = [row["disk_bytes"] for row in describe(self.sweep) if row["id"] in ids]
        working = sorted((price["training"] - price["kept"] for price in prices), reverse=True)[: self.options.jobs]
        needed, free = sum(working) + sum(price["kept"] for price in prices), disk.free_bytes(self.results)
        if needed > free:
            raise UserError(
                f"{self.results}: {disk.format_bytes(free)} are free, {len(prices)} runs need {disk.format_bytes(needed)} for "
                "checkpoints and weights: make room, or name another folder with --results"
            )

    def _launch(self, tasks: Sequence[Task], left: int) -> tuple[Mapping[str, Status], bool]:
        from bench.execution.progress import SweepProgress

        with SweepProgress(self.console, left) as progress:
            launcher = Launcher(tasks, progress, self.options.jobs, self.threads, self.device, self.options.retry)
            return launcher.run(), bool(launcher.stop_request)

    def record(self) -> list[dict[str, Any]]:
        """sweep.json, runs.jsonl and environment.json; the lines of the second."""
        import torch

        from bench.config import bases_at_paper_scale
        from bench.runtime import provenance

        lines = sweep_lines(self.sweep, self.results)
        told = {"name": self.sweep.name, "scale": self.sweep.scale, "question": self.sweep.question,
                "spec": str(self.sweep.path), "overrides": list(self.sweep.overrides),
                "bases": bases_at_paper_scale(self.sweep)}  # fmt: skip
        recorded = provenance.of_sweep(self.sweep.path, torch.device(self.device), self.threads)
        write_sweep(self.folder, told, lines, recorded)
        return lines

    def report(self) -> None:
        """Tables, figures and the report of the whole sweep; prints the first table."""
        from bench import figures
        from bench.analysis import tables

        written = tables.write(self.folder, self.results)
        for path in written:
            if path.name == "table.md":
                self._say(path.read_text(encoding="utf-8"))
        with progress("drawing figures", console=self.console):
            drawn = figures.write(self.folder, self.results)
        for path in (*written, *drawn):
            self._say(str(path))
        if self.options.report:
            self._page()

    def _page(self) -> None:
        """The notebook and the HTML page; whatever goes wrong with them, the sweep's results stand."""
        from bench import report

        try:
            with progress("executing the report's notebook", console=self.console):
                pages = report.write(self.folder, self.results)
            for path in pages:
                self._say(str(path))
        except Exception as error:
            last = (str(error).strip() or type(error).__name__).splitlines()[-1]
            self._say(f"no report: {last} (python -m bench.report {shlex.quote(str(self.folder))} tells more)", "red")

    def _verdicts(self, tasks: Sequence[Task]) -> bool:
        """Of `--overfit`; whether all passed."""
        verdicts = {task.label: task.folder.overfit() for task in tasks}
        for label, verdict in verdicts.items():
            self._say(f"{label}: {verdict['text'] if verdict else 'not finished'}")
        return all(verdict and verdict["passed"] for verdict in verdicts.values())

    def _say(self, text: str, style: str | None = None) -> None:
        self.console.print(escape(text), style=style, highlight=False, soft_wrap=True)


def task_of(run: Run, results: Path) -> Task:
    """A run as the launcher takes it."""
    from bench.config import to_dict

    return Task(run_folder(results, run.id), run.label, to_dict(run.spec), run.parents)


def sweep_lines(sweep: Sweep, results: Path) -> list[dict[str, Any]]:
    """One a run of the sweep, chosen or not: what it is and how it stands."""
    from bench.config import describe

    kept = ("id", "label", "scale", "settings", "parents", "parameters", "tokens_per_scene", "spec")
    bases = {run.id: run.reference["base"] for run in sweep.runs}
    lines = []
    for row in describe(sweep):
        status, spec = run_folder(results, row["id"]).status(), row["spec"]
        lines.append({key: row[key] for key in kept} | {
            "model": {part: spec["model"][part]["name"] for part in ("encoder", "aggregator", "head", "output")},
            "base": bases[row["id"]],
            "data": spec["data"]["name"], "steps": spec["train"]["steps"], "seed": spec["seed"],
            "status": status.state, "phase": status.phase, "message": status.message,
            "provenance": run_folder(results, row["id"]).provenance(),
        })  # fmt: skip
    return lines


def resolve_device(name: str) -> str:
    """Raises UserError for one that is not there."""
    import torch

    there = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if there else "cpu"
    if name != "cpu" and name.partition(":")[0] != "cuda":
        raise UserError(f"--device {name}: it may be cpu, cuda or cuda:N")
    if name.startswith("cuda") and not there:
        raise UserError(f"--device {name}: torch {torch.__version__} finds no CUDA device here")
    return name
