"""`python -m bench.run SPEC --slurm slurm/NAME.yaml`: hand a sweep's runs to the cluster, and return."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.common.errors import UserError
from bench.common.exit_codes import DONE, SOME_FAILED
from bench.common.json_files import write_json
from bench.common.paths import SOURCE
from bench.common.process import ProcessIdentity
from bench.execution import dry_run as plan
from bench.execution.launcher import (
    Task,
    needs_work,
    prepare_run_folder,
)
from bench.execution.session import Session
from bench.runs.folder import runs_folder
from bench.runs.lease import LeaseHeld
from bench.slurm import queue, snapshot
from bench.slurm.cluster import Cluster
from bench.slurm.groups import Group, group_tasks
from bench.slurm.job import CollectJob, RunJob
from bench.slurm.run_state import JOB, job_of, process_of
from bench.slurm.sbatch import ask_scheduler, executor_of, submitted
from bench.slurm.script import YEAR, Script

if TYPE_CHECKING:
    from rich.console import Console

    from bench.config import Run, Sweep
    from bench.execution.options import RunOptions


class Submission:
    """One call of the command that submits instead of running."""

    def __init__(self, sweep: Sweep, chosen: Sequence[Run], options: RunOptions, folder: str, console: Console,
                 cluster: Cluster) -> None:  # fmt: skip
        self.sweep, self.chosen, self.console, self.cluster = sweep, chosen, console, cluster
        self.options = replace(  # `jobs`: at once, as the disk needs room for them; the device is this process's
            options, jobs=cluster.array_parallelism, threads=options.threads or cluster.cpus, device="cpu"
        )
        self.session = Session(sweep, chosen, self.options, folder, console)
        self.results, self.folder, self.threads = options.results, self.session.folder, self.session.threads
        self.job_device = options.device if options.device != "auto" else "cuda" if self.cluster.gpus else "cpu"

    def run(self) -> int:
        tasks = self.session.tasks
        _refuse_small_batches(tasks, self.cluster)
        if self.options.dry_run or self.options.test_only:
            return self._show(tasks)
        queued = self._queued(tasks)
        if self.options.force:
            if queued:
                raise UserError(f"--force: {', '.join(sorted(queued.values()))} in the queue; cancel first")
            self.session.archive()
        left = self.session.pending()
        self.session.print_header(left)
        for task in left:
            if task.id in queued:
                self.session.print(f"{task.label}: in the queue already, job {queued[task.id]}")
        left = [task for task in left if task.id not in queued and not self._orphaned(task, tasks, queued)]
        self.session.verify_files()
        self.session.verify_data_unchanged()
        if left:
            self.session.prepare([run for run, task in zip(self.chosen, tasks, strict=True) if task in left])
            self._submit(left, tasks, queued)
        else:
            self.session.record()
            self.session.print("nothing to submit")
        bad = [task for task in tasks if task not in left and task.folder.status().state.needs_retry]
        return SOME_FAILED if any(task.id not in queued for task in bad) else DONE

    def _orphaned(self, task: Task, tasks: Sequence[Task], queued: Mapping[str, str]) -> bool:
        """Whether it starts from a run that has no weights and will not get any."""
        for parent in (other for other in tasks if other.id in task.parents and other.id not in queued):
            if not needs_work(parent, self.options.retry) and parent.folder.training() is None:
                self.session.print(
                    f"{task.label}: it starts from {parent.label}, which is {parent.folder.status().state}"
                )
                return True
        return False

    def _show(self, tasks: Sequence[Task]) -> int:
        """The batch scripts on stdout, all else on stderr; or what the scheduler says of them."""
        left = [task for task in tasks if self.options.force or needs_work(task, self.options.retry)]
        if not left:
            self.session.print("nothing to submit: all runs have ended; with --force it would be")
            left = list(tasks)
        frozen = snapshot.describe_source(SOURCE)
        code = (self.results / "code" / frozen.digest).resolve()
        script = Script(self.cluster, self.sweep.name, self._stamp(), code, self.threads)
        if self.cluster.executor == "local":
            self.console.stderr = True
            plan.print_dry_run(self.sweep, self.chosen, False, self.console, self.results)
            self.session.print("executor: local starts processes on this machine: there is no batch script")
            return DONE
        texts = [script.text(script.runs(i, _named(group)), len(group.tasks))
                 for i, group in enumerate(group_tasks(left, tasks))]  # fmt: skip
        texts.append(script.text(script.collect("afterany:ARRAY")))
        if self.options.test_only:
            return ask_scheduler(texts, self.session.print)
        self.console.stderr = True
        plan.print_dry_run(self.sweep, self.chosen, False, self.console, self.results)
        self.session.print(f"code: {frozen.label}")
        self.session.print(self._price(len(left)))
        print("\n\n".join(text.rstrip("\n") for text in texts))
        return DONE

    def _queued(self, tasks: Sequence[Task]) -> dict[str, str]:
        """Run → its job that waits or runs. Raises UserError while nobody can tell."""
        jobs = {task.id: job_of(task.folder) for task in tasks}
        there = queue.query_jobs(job["job"] for job in jobs.values() if job.get("executor") == "slurm")
        if not there.answered and shutil.which("squeue"):
            raise UserError("SLURM's controller does not answer (squeue): nothing is submitted; try again later")
        slurm = {run: job["job"] for run, job in jobs.items() if job.get("job") in there.jobs}
        told = {run: job for run, job in slurm.items() if not there.jobs[job].is_ended}
        local = {run: job["job"] for run, job in jobs.items() if (process := process_of(job)) and process.alive}
        return told | local

    def _submit(self, left: Sequence[Task], tasks: Sequence[Task], queued: Mapping[str, str]) -> None:
        frozen, code = snapshot.take_snapshot(self.results)
        script = Script(self.cluster, self.sweep.name, self._stamp(), code, self.threads)
        executor = executor_of(script)
        groups = [group for group in group_tasks(self._ready(left), tasks) if group.tasks]
        script.jobs.mkdir(parents=True, exist_ok=True)
        plan = {
            "runs": str(runs_folder(self.results).resolve()),
            "groups": [[task.id for task in group.tasks] for group in groups],
            "max_losses": self.cluster.max_crash_requeues,
            "snapshot": str(code),
            "code": asdict(frozen),
            "cluster": str(self.cluster.path),
            "command": shlex.join(sys.argv),
            "folder": str(Path.cwd()),
        }
        write_json(script.folder / "plan.json", plan)
        self.session.record()
        jobs: dict[str, str] = {}
        for number, group in enumerate(groups):
            jobs |= self._hand_over(executor, script, number, group, {**queued, **jobs})
        handed_over = [process_of(job_of(task.folder)) for group in groups for task in group.tasks]
        collector = self._collect(script, jobs, [process for process in handed_over if process])
        collect = collector["job"]
        write_json(script.folder / "submission.json", plan | {"jobs": jobs, "collect": collect, "collector": collector})
        self._tell(groups, jobs, collect, frozen)

    def _ready(self, left: Sequence[Task]) -> list[Task]:
        """With their folders and links to their logs; who is being worked on here and now is left out."""
        ready = []
        for task in left:
            try:
                prepare_run_folder(task)
            except LeaseHeld as held:
                self.session.print(f"{task.label}: {held} works on it")
                continue
            link = self.folder / "logs" / f"{_file_name(task.label)}.txt"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(os.path.relpath(task.folder.path / "log.txt", link.parent))
            ready.append(task)
        if not ready:
            raise UserError("nothing left to submit")
        return ready

    def _hand_over(
        self, executor: Any, script: Script, number: int, group: Group, jobs: Mapping[str, str]
    ) -> dict[str, str]:
        """Run → job, of one array; each run's folder says which job it is."""
        local = self.cluster.executor == "local"
        needs = [jobs[parent] for parent in group.needs if parent in jobs]
        dependency = f"afterany:{':'.join(needs)}" if needs else None
        functions = [
            RunJob(str(task.folder.path.resolve()), task.label, self.job_device, self.threads, task.parents,
                   self.cluster.minutes, self.cluster.warning_s, self.cluster.scratch,
                   self.cluster.array_parallelism if local else 0, self.cluster.gpus)
            for task in group.tasks
        ]  # fmt: skip
        executor.update_parameters(**(script.local() if local else script.runs(number, dependency)))
        submitted_jobs = submitted(lambda: executor.submit_array(functions))
        for task, job in zip(group.tasks, submitted_jobs, strict=True):
            write_json(task.folder.path / JOB, self._describe_job(job) | {"submission": str(script.folder)})
        return {task.id: str(job.job_id) for task, job in zip(group.tasks, submitted_jobs, strict=True)}

    def _collect(self, script: Script, jobs: Mapping[str, str], wait_for: Sequence[ProcessIdentity]) -> dict[str, Any]:
        """The job at the end, which on a workstation waits for the runs' processes."""
        local = self.cluster.executor == "local"
        arrays = dict.fromkeys(job.split("_")[0] for job in jobs.values())
        executor = executor_of(script)  # a new one: submitit keeps what an earlier submission wanted
        executor.update_parameters(
            **({"timeout_min": YEAR} if local else script.collect(f"afterany:{':'.join(arrays)}"))
        )
        function = CollectJob(
            str(self.folder.resolve()), str(self.results.resolve()), self.options.report, tuple(wait_for)
        )
        (job,) = submitted(lambda: executor.submit_array([function]))
        return self._describe_job(job)

    def _describe_job(self, job: Any) -> dict[str, Any]:
        """{"job", "executor"}, and on a workstation "process"."""
        content: dict[str, Any] = {"job": str(job.job_id), "executor": self.cluster.executor}
        if self.cluster.executor == "local":
            content["process"] = asdict(ProcessIdentity.of(int(job.job_id)))
        return content

    def _stamp(self) -> Path:
        """A folder of its own for each submission."""
        parent: Path = self.folder.resolve() / "slurm"
        name = time.strftime("%Y%m%d-%H%M%S")
        taken = len(list(parent.glob(f"{name}*")))
        return parent / (f"{name}.{taken}" if taken else name)

    def _price(self, runs: int) -> str:
        cluster = self.cluster
        if cluster.executor == "local":
            return f"{runs} runs, {min(runs, cluster.array_parallelism)} at once, {cluster.gpus} GPUs each"
        hours = cluster.minutes / 60
        unit, each = ("GPU", cluster.nodes * cluster.gpus) if cluster.gpus else ("core", cluster.ranks * cluster.cpus)
        return (
            f"requested: {runs} run{'s' * (runs != 1)} × {each} {unit}{'s' * (each != 1)} × {hours:.3g} h = "
            f"{_number(runs * each * hours)} {unit}-hours; a run that reaches the limit goes on, "
            f"at most {cluster.max_timeouts} times"
        )

    def _tell(self, groups: Sequence[Group], jobs: Mapping[str, str], collect: str, frozen: snapshot.Snapshot) -> None:
        for group in groups:
            first = jobs[group.tasks[0].id].split("_")[0]
            after = f", after {', '.join(jobs.get(p, p) for p in group.needs)}" if group.needs else ""
            what = "array" if len(group.tasks) > 1 else "job"
            if self.cluster.executor == "local":
                what, first = "processes", ", ".join(jobs[task.id] for task in group.tasks)
            self.session.print(f"{what} {first}: {'; '.join(task.label for task in group.tasks)}{after}")
        self.session.print(f"then {collect} collects: tables and figures in {self.folder}")
        self.session.print(self._price(sum(len(group.tasks) for group in groups)))
        self.session.print(f"code: {frozen.label} ({self.results / 'code' / frozen.digest})")
        folder = shlex.quote(str(self.folder))
        for command in (f"python -m bench.status {folder} --follow", f"python -m bench.cancel {folder}",
                        f"tail -F {folder}/logs/*.txt"):  # fmt: skip
            self.session.print(f"  {command}")


def _refuse_small_batches(tasks: Sequence[Task], cluster: Cluster) -> None:
    for task in tasks:
        if (batch := task.spec["train"]["batch"]) < cluster.ranks:
            raise UserError(
                f"{task.label}: train.batch {batch} is less than the {cluster.ranks} processes of a run "
                f"({cluster.path}: nodes × {'gpus' if cluster.gpus else 'tasks'})"
            )


def _named(group: Group) -> str | None:
    return f"afterany:{':'.join(f'JOB_OF_{need}' for need in group.needs)}" if group.needs else None


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _file_name(label: str) -> str:
    return "".join(c if c.isalnum() or c in "._-=+" else "_" for c in label)
