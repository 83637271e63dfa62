"""`python -m bench.run SPEC --slurm slurm/NAME.yaml`: submit the runs of a sweep as jobs, and return."""

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
from bench.common.labels import file_name
from bench.common.paths import SOURCE
from bench.common.process import ProcessIdentity
from bench.execution.dry_run import print_dry_run
from bench.execution.estimates import require_fit
from bench.execution.launcher import Task, needs_work, prepare_run_folder
from bench.execution.session import Session
from bench.runs.folder import runs_folder
from bench.runs.lease import LeaseHeld
from bench.slurm import queue, snapshot
from bench.slurm.cluster import Cluster
from bench.slurm.estimates import hardware_of_cluster
from bench.slurm.groups import Group, group_tasks
from bench.slurm.job import CollectJob, RunJob
from bench.slurm.run_state import JOB, job_of, process_of
from bench.slurm.sbatch import make_executor, submit_jobs, validate_scripts
from bench.slurm.script import YEAR, Script

if TYPE_CHECKING:
    from rich.console import Console

    from bench.config import Run, Sweep
    from bench.execution.options import RunOptions

DEFAULT_MAX_ARRAY_SIZE = 1001  # slurm.conf(5)


class Submission:
    """One call of the command: the steps of a session around the submission of its pending runs."""

    def __init__(self, sweep: Sweep, chosen: Sequence[Run], options: RunOptions, folder: str, console: Console,
                 cluster: Cluster) -> None:  # fmt: skip
        # Disk space is checked for as many runs as train at once; `device` is that of this process, not of the jobs.
        own = replace(options, jobs=cluster.array_parallelism, threads=options.threads or cluster.cpus, device="cpu")
        self.session = Session(sweep, chosen, own, folder, console)
        self.cluster, self.console, self.tasks = cluster, console, self.session.tasks
        self.threads = self.session.threads
        self.job_device = options.device if options.device != "auto" else "cuda" if cluster.gpus else "cpu"

    def run(self) -> int:
        """Submit what is pending and not in the queue; an exit code."""
        session, options = self.session, self.session.options
        _check_batches(self.tasks, self.cluster)
        if options.dry_run or options.test_only:
            return self._dry_run()
        queued = self._queued_jobs()
        if options.force:
            if queued:
                raise UserError(
                    f"--force: jobs {', '.join(sorted(queued.values()))} are queued; run bench.cancel first"
                )
            session.archive()
        pending = session.pending()
        session.print_header(pending)
        for task in pending:
            if task.id in queued:
                session.print(f"{task.label}: already queued as job {queued[task.id]}")
        to_submit = [task for task in pending if task.id not in queued and not self._blocked_by_parent(task, queued)]
        session.verify_files()
        session.verify_data_unchanged()
        if to_submit:
            runs = [run for run, task in zip(session.chosen, self.tasks, strict=True) if task in to_submit]
            for text in require_fit(runs, hardware_of_cluster(self.cluster), self.console, options.submit_anyway):
                session.print(text, "yellow")
            session.prepare(runs)
            self._submit(to_submit, queued)
        else:
            session.record()
            session.print("nothing to submit")
        failed = [task for task in self.tasks if task not in to_submit and task.folder.status().state.needs_retry]
        return SOME_FAILED if any(task.id not in queued for task in failed) else DONE

    def _blocked_by_parent(self, task: Task, queued: Mapping[str, str]) -> bool:
        """Whether a parent of the run has no weights and is not going to be trained."""
        for parent in (other for other in self.tasks if other.id in task.parents and other.id not in queued):
            if not needs_work(parent, self.session.options.retry) and parent.folder.training() is None:
                state = parent.folder.status().state
                self.session.print(f"{task.label}: not submitted, parent run {parent.label} is {state}")
                return True
        return False

    def _dry_run(self) -> int:
        """Print the batch scripts on stdout and all else on stderr, or what `sbatch --test-only` says of them."""
        session, options = self.session, self.session.options
        pending = list(self.tasks) if options.force else session.pending()
        if not pending:
            session.print("nothing to submit: no run is pending; shown as with --force")
            pending = list(self.tasks)
        frozen = snapshot.describe_source(SOURCE)
        script = self._script((session.results / "code" / frozen.digest).resolve())
        if self.cluster.executor == "slurm" and options.test_only:
            validate_scripts(self._script_texts(script, self._groups(pending)), session.print)
            return DONE
        self.console.stderr = True
        print_dry_run(session.sweep, session.chosen, False, self.console, session.folder, self.cluster.ranks)
        if self.cluster.executor == "local":
            session.print("executor: local starts processes on this machine, without a batch script")
            return DONE
        groups = self._groups(pending)
        session.print(f"code: {frozen.label}")
        session.print(self._requested(len(pending)))
        print("\n\n".join(text.rstrip("\n") for text in self._script_texts(script, groups)))
        return DONE

    def _script(self, code: Path) -> Script:
        """The scripts of a new submission, in a folder of its own."""
        parent = self.session.folder.resolve() / "slurm"
        name = time.strftime("%Y%m%d-%H%M%S")
        same_second = len(list(parent.glob(f"{name}*")))
        folder = parent / (f"{name}.{same_second}" if same_second else name)
        return Script(self.cluster, self.session.sweep.name, folder, code, self.threads)

    def _script_texts(self, script: Script, groups: Sequence[Group]) -> list[str]:
        texts = []
        for number, group in enumerate(groups):
            dependency = f"afterany:{':'.join(f'JOB_OF_{need}' for need in group.needs)}" if group.needs else None
            texts.append(script.text(script.runs(number, dependency), len(group.tasks)))
        return [*texts, script.text(script.collect("afterany:ARRAY"))]

    def _groups(self, tasks: Sequence[Task]) -> list[Group]:
        """The arrays; printed when the scheduler's limit splits them."""
        if self.cluster.executor == "local":
            return group_tasks(tasks, self.tasks)
        limit = queue.max_array_size() or DEFAULT_MAX_ARRAY_SIZE
        groups = group_tasks(tasks, self.tasks, limit)
        if len(groups) > len(group_tasks(tasks, self.tasks)):
            text = f"{len(tasks)} runs exceed SLURM's MaxArraySize {limit}: split into {len(groups)} arrays"
            self.session.print(f"{text}, each with array_parallelism {self.cluster.array_parallelism}", "yellow")
        return groups

    def _queued_jobs(self) -> dict[str, str]:
        """Run id → id of its pending or running job. Raises UserError while the controller does not answer."""
        jobs = {task.id: job_of(task.folder) for task in self.tasks}
        listed = queue.query_jobs(job["job"] for job in jobs.values() if job.get("executor") == "slurm")
        if not listed.reachable and shutil.which("squeue"):
            raise UserError("SLURM's controller does not answer (squeue): nothing was submitted; retry later")
        slurm = {
            run: job["job"] for run, job in jobs.items()
            if job.get("job") in listed.jobs and listed.jobs[job["job"]].end_state is None
        }  # fmt: skip
        local = {run: job["job"] for run, job in jobs.items() if (process := process_of(job)) and process.is_running}
        return slurm | local

    def _submit(self, tasks: Sequence[Task], queued: Mapping[str, str]) -> None:
        session = self.session
        frozen, code = snapshot.take_snapshot(session.results)
        script = self._script(code)
        executor = make_executor(script)
        groups = self._groups(self._prepare_folders(tasks))
        script.jobs.mkdir(parents=True, exist_ok=True)
        content = {
            "runs": str(runs_folder(session.results).resolve()),
            "groups": [[task.id for task in group.tasks] for group in groups],
            "max_crash_requeues": self.cluster.max_crash_requeues,
            "snapshot": str(code),
            "code": asdict(frozen),
            "cluster": str(self.cluster.path),
            "command": shlex.join(sys.argv),
            "folder": str(Path.cwd()),
        }
        write_json(script.folder / "plan.json", content)
        session.record()
        jobs: dict[str, str] = {}
        for number, group in enumerate(groups):
            jobs |= self._submit_array(executor, script, number, group, {**queued, **jobs})
        processes = [process_of(job_of(task.folder)) for group in groups for task in group.tasks]
        collector = self._submit_collect(script, jobs, [process for process in processes if process])
        write_json(script.folder / "submission.json",
                   content | {"jobs": jobs, "collect": collector["job"], "collector": collector})  # fmt: skip
        self._print_summary(groups, jobs, collector["job"], frozen)

    def _prepare_folders(self, tasks: Sequence[Task]) -> list[Task]:
        """Write run folders and links to their logs; runs that another process works on are left out."""
        ready = []
        for task in tasks:
            try:
                prepare_run_folder(task)
            except LeaseHeld as held:
                self.session.print(f"{task.label}: locked by {held}")
                continue
            link = self.session.folder / "logs" / file_name(task.label, ".txt")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(os.path.relpath(task.folder.path / "log.txt", link.parent))
            ready.append(task)
        if not ready:
            raise UserError("nothing to submit: every pending run is locked by another process")
        return ready

    def _submit_array(
        self, executor: Any, script: Script, number: int, group: Group, jobs: Mapping[str, str]
    ) -> dict[str, str]:
        """Submit one array and write each run's job.json; run id → job id."""
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
        submitted = submit_jobs(lambda: executor.submit_array(functions))
        for task, job in zip(group.tasks, submitted, strict=True):
            write_json(task.folder.path / JOB, self._describe_job(job) | {"submission": str(script.folder)})
        return {task.id: str(job.job_id) for task, job in zip(group.tasks, submitted, strict=True)}

    def _submit_collect(
        self, script: Script, jobs: Mapping[str, str], wait_for: Sequence[ProcessIdentity]
    ) -> dict[str, Any]:
        """Submit the collect job, which on a workstation waits for the runs' processes; as `_describe_job`."""
        arrays = dict.fromkeys(job.split("_")[0] for job in jobs.values())
        local = self.cluster.executor == "local"
        executor = make_executor(script)  # a new one: submitit keeps the parameters of earlier submissions
        executor.update_parameters(
            **({"timeout_min": YEAR} if local else script.collect(f"afterany:{':'.join(arrays)}"))
        )
        session = self.session
        function = CollectJob(
            str(session.folder.resolve()), str(session.results.resolve()), session.options.report, tuple(wait_for)
        )
        (job,) = submit_jobs(lambda: executor.submit_array([function]))
        return self._describe_job(job)

    def _describe_job(self, job: Any) -> dict[str, Any]:
        """{"job", "executor"}, and on a workstation "process"."""
        content: dict[str, Any] = {"job": str(job.job_id), "executor": self.cluster.executor}
        if self.cluster.executor == "local":
            content["process"] = asdict(ProcessIdentity.of(int(job.job_id)))
        return content

    def _requested(self, runs: int) -> str:
        """The resources that the jobs request, in GPU-hours or core-hours."""
        cluster = self.cluster
        if cluster.executor == "local":
            return f"{runs} runs, {min(runs, cluster.array_parallelism)} at once, {cluster.gpus} GPUs each"
        hours = cluster.minutes / 60
        unit, each = ("GPU", cluster.nodes * cluster.gpus) if cluster.gpus else ("core", cluster.ranks * cluster.cpus)
        total = runs * each * hours
        return (
            f"requested: {runs} run{'s' * (runs != 1)} × {each} {unit}{'s' * (each != 1)} × {hours:.3g} h = "
            f"{f'{total:,.0f}' if total >= 100 else f'{total:.3g}'} {unit}-hours; a run that reaches the time limit is "
            f"requeued, at most {cluster.max_timeouts} times"
        )

    def _print_summary(
        self, groups: Sequence[Group], jobs: Mapping[str, str], collect: str, frozen: snapshot.Snapshot
    ) -> None:
        session = self.session
        for group in groups:
            kind, job = "array" if len(group.tasks) > 1 else "job", jobs[group.tasks[0].id].split("_")[0]
            if self.cluster.executor == "local":
                kind, job = "processes", ", ".join(jobs[task.id] for task in group.tasks)
            after = f", after {', '.join(jobs.get(parent, parent) for parent in group.needs)}" if group.needs else ""
            session.print(f"{kind} {job}: {'; '.join(task.label for task in group.tasks)}{after}")
        session.print(f"collect job {collect}: writes tables and figures to {session.folder}")
        session.print(self._requested(sum(len(group.tasks) for group in groups)))
        session.print(f"code: {frozen.label} ({session.results / 'code' / frozen.digest})")
        folder = shlex.quote(str(session.folder))
        for command in (f"python -m bench.status {folder} --follow", f"python -m bench.cancel {folder}",
                        f"tail -F {folder}/logs/*.txt"):  # fmt: skip
            session.print(f"  {command}")


def _check_batches(tasks: Sequence[Task], cluster: Cluster) -> None:
    """Every process of a run gets the same number of scenes. Raises UserError."""
    for task in tasks:
        if (batch := task.spec["train"]["batch"]) % cluster.ranks and task.spec["train"]["steps"]:
            raise UserError(
                f"{task.label}: train.batch {batch} is not a multiple of the {cluster.ranks} processes of a run "
                f"({cluster.path}: nodes × {'gpus' if cluster.gpus else 'tasks'}); change one of them"
            )
