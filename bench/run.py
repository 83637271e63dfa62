"""`python -m bench.run SPEC`: a question in YAML → trained and evaluated runs, tables and figures.

Run it again and it goes on where it stopped; nothing that is finished is done twice. Exit code 0: all done; 1: some
runs failed; 2: a bad spec or input; 130: stopped.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from bench import disk, plan
from bench.console import command_console, progress
from bench.environment import cores
from bench.errors import BadInput, run_command
from bench.launch import Launcher, Task, archive, due
from bench.options import RunOptions, add_shared, parse_options
from bench.record import Status, run_folder, write_sweep
from bench.states import State

if TYPE_CHECKING:
    from bench.data.scene import DataSource
    from bench.spec import Run, Sweep

DONE, SOME_FAILED, STOPPED = 0, 1, 130


def parse(argv: Sequence[str] | None = None) -> RunOptions:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    add = parser.add_argument
    add("spec", type=Path, metavar="SPEC", help="a YAML file of ablations/")
    add("overrides", nargs="*", metavar="key=value", help="any field of the spec, e.g. train.steps=100")
    add("--dry-run", action="store_true", help="print the runs, their sizes and what is missing; train nothing")
    add("--json", action="store_true", help="print the runs as a JSON list; all else goes to stderr")
    add("--only", metavar="PATTERN", help="only runs whose label or id matches, e.g. 'Ours*', and what they start from")
    add("--force", action="store_true", help="put finished and begun runs aside (results/archive/) and do them anew")
    add("--overfit", type=int, metavar="N", help="memorise N scenes, the first test of a new part")
    add("--slurm", type=Path, metavar="FILE", help="hand the runs to a cluster, e.g. slurm/a100.yaml, and return")
    add("--test-only", action="store_true", help="with --slurm: ask the scheduler what it would say")
    add_shared(parser)
    return parse_options(parser, argv)


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    sweep, folder = _load(options)
    chosen = _chosen(sweep, options.only)
    console = command_console(to_stderr=options.json)
    if options.slurm:
        from bench.slurm.cluster import load
        from bench.slurm.submit import Submission

        return Submission(sweep, chosen, options, folder, console, load(options.slurm, sweep.scale)).run()
    if options.test_only:
        raise BadInput("--test-only goes with --slurm FILE")
    if options.dry_run:
        plan.show(sweep, chosen, options.json, console, options.results)
        return DONE
    return Session(sweep, chosen, options, folder, console).run()


def _load(options: RunOptions) -> tuple[Sweep, str]:
    """The sweep and the name of its folder, in which `--overfit N` stands for its many overrides."""
    from bench import spec
    from bench.spec.labels import folder_name

    before: list[str] = []
    if options.overfit:
        from bench.overfit import overrides

        before = overrides(options.overfit)
    sweep = spec.load(options.spec, [*before, *options.overrides], options.scale)
    if sweep.search:
        raise BadInput(f"{sweep.search}: this spec is a search: python -m bench.search {options.spec}")
    told = [f"overfit={options.overfit}"] if before else []
    return sweep, folder_name(sweep.name, sweep.scale, [*told, *options.overrides])


def _chosen(sweep: Sweep, pattern: str | None) -> list[Run]:
    """Runs that match, with all that they start from."""
    if pattern is None:
        return sweep.runs
    wanted = {r.id for r in sweep.runs if any(fnmatchcase(t.lower(), pattern.lower()) for t in (r.label, r.id))}
    if not wanted:
        raise BadInput(f"--only {pattern!r} matches none of: {'; '.join(run.label for run in sweep.runs)}")
    while more := {parent for run in sweep.runs if run.id in wanted for parent in run.parents} - wanted:
        wanted |= more
    return [run for run in sweep.runs if run.id in wanted]


class Session:
    """One call of the command."""

    def __init__(self, sweep: Sweep, chosen: Sequence[Run], options: RunOptions, folder: str, console: Console) -> None:
        self.sweep, self.chosen, self.options, self.console = sweep, chosen, options, console
        self.results = options.results
        self.folder = self.results / folder
        self.threads = options.threads or max(1, cores() // options.jobs)
        self.device = device_named(options.device)

    def run(self) -> int:
        tasks = [task_of(run, self.results) for run in self.chosen]
        if self.options.force:
            for moved in filter(None, [archive(task) for task in tasks]):
                self._say(f"put aside: {moved}")
        left = [task for task in tasks if due(task, self.options.retry)]
        self._announce(tasks, left)
        self.same_data(tasks)
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
        from bench.spec.code import changed

        self._say(f"{self.sweep.name}, scale {self.sweep.scale}: {len(left)} of {len(tasks)} runs to do")
        for run, task in zip(self.chosen, tasks, strict=True):
            if files := changed(run.spec, (task.folder.training() or {}).get("code", {})):
                text = f"{task.label}: {', '.join(files)} changed since this run was trained; --force trains it anew"
                self._say(text, "yellow")
        for task in tasks:
            status = task.folder.status()
            if status.state.needs_retry and task not in left:
                log = task.folder.path / "log.txt"
                self._say(
                    f"{task.label}: {status.state} before; --retry {status.state} tries again (log: {log})", "red"
                )

    def same_data(self, tasks: Sequence[Task]) -> None:
        """Of runs that are trained and now asked for with other paths to their data. Raises BadInput."""
        from bench.data.sampler import open_source
        from bench.scenes import compare, used

        for run, task in zip(self.chosen, tasks, strict=True):
            if task.folder.scenes() and task.folder.spec()["data"] != task.spec["data"]:
                source = open_source(run.spec)
                compare(used(run.spec, source), task.folder, source)

    def prepare(self, runs: Sequence[Run]) -> None:
        """All that can be found wrong before training starts; scenes are generated here, once, with progress."""
        from bench import initialise, scenes
        from bench.data.sampler import open_source

        untrained = [run for run in runs if run_folder(self.results, run.id).training() is None]
        if wrong := dict.fromkeys(text for run in untrained for text in initialise.problems(run.spec)):
            raise BadInput("\n".join(wrong))
        self._room(runs)
        sources: dict[Any, DataSource] = {}
        for run in runs:
            key = run.spec.data, run.spec.model.image_size
            sources[key] = sources.get(key) or open_source(run.spec)
            scenes.ready(run.spec, sources[key])

    def _room(self, runs: Sequence[Run]) -> None:
        """For all runs to do, as many at once as asked for. Raises BadInput."""
        from bench.spec import describe

        ids = {run.id for run in runs}
        prices = [row["disk_bytes"] for row in describe(self.sweep) if row["id"] in ids]
        working = sorted((price["training"] - price["kept"] for price in prices), reverse=True)[: self.options.jobs]
        needed, free = sum(working) + sum(price["kept"] for price in prices), disk.free(self.results)
        if needed > free:
            raise BadInput(
                f"{self.results}: {disk.shown(free)} are free, {len(prices)} runs need {disk.shown(needed)} for "
                "checkpoints and weights: make room, or name another folder with --results"
            )

    def _launch(self, tasks: Sequence[Task], left: int) -> tuple[Mapping[str, Status], bool]:
        from bench.progress import SweepProgress

        with SweepProgress(self.console, left) as progress:
            launcher = Launcher(tasks, progress, self.options.jobs, self.threads, self.device, self.options.retry)
            return launcher.run(), bool(launcher.asked)

    def record(self) -> list[dict[str, Any]]:
        """sweep.json, runs.jsonl and environment.json; the lines of the second."""
        import torch

        from bench import provenance
        from bench.spec import bases_at_paper_scale

        lines = _lines(self.sweep, self.results)
        told = {"name": self.sweep.name, "scale": self.sweep.scale, "question": self.sweep.question,
                "spec": str(self.sweep.path), "overrides": list(self.sweep.overrides),
                "bases": bases_at_paper_scale(self.sweep)}  # fmt: skip
        recorded = provenance.of_sweep(self.sweep.path, torch.device(self.device), self.threads)
        write_sweep(self.folder, told, lines, recorded)
        return lines

    def report(self) -> None:
        """Tables, figures and the report of the whole sweep; prints the first table."""
        from bench import figures, tables

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
    from bench.spec import to_dict

    return Task(run_folder(results, run.id), run.label, to_dict(run.spec), run.parents)


def _lines(sweep: Sweep, results: Path) -> list[dict[str, Any]]:
    """One a run of the sweep, chosen or not: what it is and how it stands."""
    from bench.spec import describe

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


def device_named(name: str) -> str:
    """Raises BadInput for one that is not there."""
    import torch

    there = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if there else "cpu"
    if name != "cpu" and name.partition(":")[0] != "cuda":
        raise BadInput(f"--device {name}: it may be cpu, cuda or cuda:N")
    if name.startswith("cuda") and not there:
        raise BadInput(f"--device {name}: torch {torch.__version__} finds no CUDA device here")
    return name


if __name__ == "__main__":
    run_command(main)
