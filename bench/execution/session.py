"""A sweep run from this machine: pending runs are trained, then recorded, tabulated and reported."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from safetensors import SafetensorError, safe_open

from bench.common import disk
from bench.common.console import print_json, print_line, progress
from bench.common.environment import cores
from bench.common.errors import UserError
from bench.common.exit_codes import DONE, SOME_FAILED, STOPPED
from bench.common.files import check_writable, is_writable
from bench.common.json_files import read_lines
from bench.execution.launcher import LaunchCallbacks, Launcher, Task, archive_run, needs_work, prepare_run_folder
from bench.execution.options import RunOptions
from bench.execution.progress import SweepProgress
from bench.runs.controllers import controlling
from bench.runs.folder import Status, run_folder, write_sweep
from bench.runs.states import State

if TYPE_CHECKING:
    from bench.config import Run, Sweep
    from bench.data.scene import DataSource


class Session:
    """One call of a command that trains runs: its sweep, its options, and where the results go.

    `run` is the whole of a local sweep. A submission and a search hold a session and use its steps: `archive`,
    `pending`, `print_header`, `verify_files`, `verify_data_unchanged`, `prepare`, `launch`, `record`, `report` and
    `print`.
    """

    def __init__(self, sweep: Sweep, chosen: Sequence[Run], options: RunOptions, folder: str, console: Console) -> None:
        self.sweep, self.chosen, self.options, self.console = sweep, chosen, options, console
        self.results = options.results
        self.folder = self.results / folder
        self.threads = options.threads or max(1, cores() // options.jobs)
        self.device = resolve_device(options.device)
        self.tasks = [task_of(run, self.results) for run in chosen]

    def run(self) -> int:
        """Train and evaluate what is missing, then write tables, figures and the report; an exit code."""
        if self.options.force:
            self.archive()
        pending = self.pending()
        self.print_header(pending)
        if not pending and not is_writable(self.results):
            return self._print_stored_tables()
        check_writable(self.results)
        self.verify_files()
        self.verify_data_unchanged()
        self.prepare([run for run, task in zip(self.chosen, self.tasks, strict=True) if task in pending])
        with controlling(self.folder, [task.id for task in self.tasks]):
            self.record()  # bench.status reads it while the runs train
            with SweepProgress(self.console, len(pending), self.folder) as callbacks:
                statuses, stopped = self.launch(callbacks)
        lines = self.record()
        if stopped:
            self.print("stopped; re-run the same command to resume")
            return STOPPED
        report = self.report()
        passed = self._print_overfit_results() if self.options.overfit else True
        if self.options.json:
            print_json(lines)
        self.print(f"report: {report.resolve()}")
        return DONE if passed and all(status.state is State.DONE for status in statuses.values()) else SOME_FAILED

    def pending(self) -> list[Task]:
        """Tasks that are neither done nor failed without a matching --retry."""
        return [task for task in self.tasks if needs_work(task, self.options.retry)]

    def archive(self) -> None:
        """Move existing run folders to results/archive/ (--force). Raises UserError while a run is locked."""
        for path in filter(None, [archive_run(task) for task in self.tasks]):
            self.print(f"archived: {path}")

    def print_header(self, pending: Sequence[Task]) -> None:
        """How many runs are pending; runs whose code has changed; earlier failures that are not retried."""
        from bench.config.source_hash import changed_sources

        runs = f"{len(pending)} of {len(self.tasks)} runs pending"
        self.print(f"{self.sweep.name}, scale {self.sweep.scale}: {runs}; results: {self.results.resolve()}")
        for run, task in zip(self.chosen, self.tasks, strict=True):
            if files := changed_sources(run.spec, (task.folder.training() or {}).get("code", {})):
                text = (
                    f"{task.label}: {', '.join(files)} changed since this run was trained; pass --force to retrain it"
                )
                self.print(text, "yellow")
        for task in self.tasks:
            state = task.folder.status().state
            if state.needs_retry and task not in pending:
                log = task.folder.path / "log.txt"
                self.print(f"{task.label}: {state} previously; pass --retry {state} to retry (log: {log})", "red")

    def verify_files(self) -> None:
        """Restore missing spec.json files of trained runs. Raises UserError where weights are missing or damaged."""
        for task in self.tasks:
            if task.folder.training() is not None and not (task.folder.path / "spec.json").is_file():
                prepare_run_folder(task)
                self.print(
                    f"{task.label}: {task.folder.path / 'spec.json'} was missing and has been restored", "yellow"
                )
        if damaged := list(filter(None, (weights_problem(task) for task in self.tasks))):
            raise UserError("\n".join(damaged))

    def verify_data_unchanged(self) -> None:
        """Of trained runs that are now requested with other paths to their data. Raises UserError."""
        from bench.data.sampler import open_source
        from bench.evaluation.scene_record import resolve_splits, verify_unchanged

        for run, task in zip(self.chosen, self.tasks, strict=True):
            if task.folder.scenes() and task.folder.spec()["data"] != task.spec["data"]:
                source = open_source(run.spec.data, run.spec.model.image_size)
                verify_unchanged(resolve_splits(run.spec, source), task.folder, source)

    def prepare(self, runs: Sequence[Run]) -> None:
        """All checks that are possible before training; scenes are generated here, once, with progress.

        Raises UserError for unusable weights, too little disk space and unreadable scenes.
        """
        from bench.data.sampler import open_source
        from bench.evaluation import scene_record
        from bench.training import initialization

        untrained = [run for run in runs if run_folder(self.results, run.id).training() is None]
        if problems := dict.fromkeys(text for run in untrained for text in initialization.find_problems(run.spec)):
            raise UserError("\n".join(problems))
        self._check_disk_space(runs)
        sources: dict[Any, DataSource] = {}
        for run in runs:
            key = run.spec.data, run.spec.model.image_size
            sources[key] = sources.get(key) or open_source(run.spec.data, run.spec.model.image_size)
            scene_record.preflight(run.spec, sources[key])

    def _check_disk_space(self, runs: Sequence[Run]) -> None:
        """For all pending runs, `jobs` of them at once. Raises UserError."""
        from bench.config import describe

        ids = {run.id for run in runs}
        sizes = [row["disk_bytes"] for row in describe(self.sweep) if row["id"] in ids]
        temporary = sorted((size["training"] - size["kept"] for size in sizes), reverse=True)[: self.options.jobs]
        needed, free = sum(temporary) + sum(size["kept"] for size in sizes), disk.free_bytes(self.results)
        if needed > free:
            raise UserError(
                f"{self.results}: {disk.format_bytes(free)} free, but {len(sizes)} runs need "
                f"{disk.format_bytes(needed)} for checkpoints and weights: free space, or pass --results DIR"
            )

    def launch(self, callbacks: LaunchCallbacks) -> tuple[Mapping[str, Status], bool]:
        """Run all tasks on this machine: (status by run id, whether a signal stopped the command)."""
        options = self.options
        launcher = Launcher(self.tasks, callbacks, options.jobs, self.threads, self.device, options.retry)
        return launcher.run(), bool(launcher.stop_request)

    def record(self) -> list[dict[str, Any]]:
        """Write sweep.json, runs.jsonl and environment.json; the records of runs.jsonl."""
        import torch

        from bench import figures
        from bench.analysis.sweep_sources import sweep_sources
        from bench.config import bases_at_paper_scale
        from bench.runtime import provenance

        lines = sweep_lines(self.sweep, self.results)
        figures.remove_former_diagrams(self.folder, lines)
        content = {"name": self.sweep.name, "scale": self.sweep.scale, "question": self.sweep.question,
                   "spec": str(self.sweep.path), "overrides": list(self.sweep.overrides),
                   "reference": self.sweep.reference, "folder_name": self.options.name,
                   "bases": bases_at_paper_scale(self.sweep), **sweep_sources(self.sweep)}  # fmt: skip
        environment = provenance.of_sweep(self.sweep.path, torch.device(self.device), self.threads)
        write_sweep(self.folder, content, lines, environment)
        return lines

    def report(self) -> Path:
        """Write tables, figures and the report of the whole sweep, and print its answer and the first table.

        Returns report.html; the sweep's folder where there is none (--no-report, or the report failed).
        """
        from bench import figures
        from bench.analysis import tables

        tables.write(self.folder, self.results)
        self.print(tables.terminal_summary(self.folder, self.results))
        with progress("drawing figures", console=self.console):
            figures.write(self.folder, self.results)
        return (self._write_report() if self.options.report else None) or self.folder

    def _write_report(self) -> Path | None:
        """report.html; None if it could not be written, which does not affect tables and figures."""
        from bench import report

        try:
            with progress("executing the report's notebook", console=self.console):
                return next(path for path in report.write(self.folder, self.results) if path.suffix == ".html")
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            command = f"python -m bench.report {shlex.quote(str(self.folder))}"
            self.print(f"no report: {reason} (for details: {command})", "red")
            return None

    def _print_stored_tables(self) -> int:
        """Of a finished sweep whose results are read-only: the table of its last report, if it has one."""
        table = self.folder / "tables" / "table.md"
        if not table.is_file():
            raise UserError(
                f"{self.results.resolve()} cannot be written to, and {self.folder.name} has no table yet: "
                "copy the folder, and pass the copy with --results DIR"
            )
        self.print(table.read_text(encoding="utf-8"))
        if self.options.json:
            print_json(read_lines(self.folder / "runs.jsonl"))
        page = self.folder / "report.html"
        self.print(f"read-only, nothing updated; report: {(page if page.is_file() else self.folder).resolve()}")
        return DONE

    def _print_overfit_results(self) -> bool:
        """Of `--overfit`; whether all passed."""
        results = {task.label: task.folder.overfit() for task in self.tasks}
        for label, result in results.items():
            self.print(f"{label}: {result['text'] if result else 'not finished'}")
        return all(result and result["passed"] for result in results.values())

    def print(self, text: str, style: str | None = None) -> None:
        """A line for people, as it is (no markup)."""
        print_line(self.console, text, style)


def weights_problem(task: Task) -> str | None:
    """What is wrong with the weights file of a trained run, and what to do; None if nothing is."""
    from models.weights import WEIGHTS_FILE

    path = task.folder.path / WEIGHTS_FILE
    if task.folder.training() is None:
        return None
    problem = "is missing"
    if path.is_file():
        try:
            with safe_open(path, framework="numpy"):  # reads the header and compares it with the file's size
                return None
        except SafetensorError as error:
            problem = f"is damaged ({error})"
    return (
        f"{task.label}: {path} {problem}: restore the file, or re-run with --force --only {shlex.quote(task.label)} to "
        "train the run again; its tables remain available with python -m bench.report"
    )


def task_of(run: Run, results: Path) -> Task:
    """A run as the launcher expects it."""
    from bench.config import to_dict

    return Task(run_folder(results, run.id), run.label, to_dict(run.spec), run.parents)


def sweep_lines(sweep: Sweep, results: Path) -> list[dict[str, Any]]:
    """One record for each run of the sweep, chosen or not: its settings, size, status and provenance."""
    from bench.config import describe
    from bench.config.source_hash import changed_sources

    columns = ("id", "label", "scale", "settings", "parents", "parameters", "tokens_per_scene", "spec")
    runs = {run.id: run for run in sweep.runs}
    lines = []
    for row in describe(sweep):
        folder, run, spec = run_folder(results, row["id"]), runs[row["id"]], row["spec"]
        status = folder.status()
        lines.append({key: row[key] for key in columns} | {
            "model": {part: spec["model"][part]["name"] for part in ("encoder", "aggregator", "head", "output")},
            "base": run.origin["base"],
            "data": spec["data"]["name"], "steps": spec["train"]["steps"], "seed": spec["seed"],
            "status": status.state, "phase": status.phase, "message": status.message,
            "provenance": folder.provenance(),
            "changed_code": changed_sources(run.spec, (folder.training() or {}).get("code", {})),
        })  # fmt: skip
    return lines


def resolve_device(name: str) -> str:
    """ "auto" → "cuda" or "cpu". Raises UserError for a device that does not exist."""
    import torch

    available = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if available else "cpu"
    if name != "cpu" and name.partition(":")[0] != "cuda":
        raise UserError(f"--device {name}: it may be cpu, cuda or cuda:N")
    if name.startswith("cuda") and not available:
        raise UserError(f"--device {name}: torch {torch.__version__} finds no CUDA device here")
    return name
