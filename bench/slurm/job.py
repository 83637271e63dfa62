"""The functions of jobs, which submitit calls in every process of a step.

Signals only set a flag; after training has written its checkpoint, submitit's own handler requeues the job. A restarted
job, whoever restarted it, resumes from the newest checkpoint in the run's folder.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from submitit import JobEnvironment
from submitit.core.utils import DelayedSubmission, UncompletedJobError

from bench.common.environment import local_rank, rank_and_world_size
from bench.common.exit_codes import LOCKED, STOPPED
from bench.common.paths import cache_dir
from bench.common.process import ProcessIdentity
from bench.execution import direct, worker
from bench.execution.endings import ExecutionContext, status_of_exception
from bench.runs.folder import RunFolder, Status
from bench.runs.lease import LEASE_TIMEOUT_S, Lease
from bench.runs.states import State
from bench.slurm import context
from bench.slurm.slots import acquire_slot

RETRY_S = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunJob:
    """One run. It holds plain values only; the spec is read from the run's folder when the job starts."""

    run: str  # path of its folder
    label: str
    device: str
    threads: int
    parents: tuple[str, ...] = ()
    minutes: int = 60
    warning_s: int = 180
    scratch: str | None = None
    slots: int = 0  # runs at once on a workstation; 0 on a cluster
    gpus: int = 0

    def __call__(self) -> str:
        started, submitit_handler = time.time(), signal.getsignal(signal.SIGUSR2)
        job = JobEnvironment()
        if self.slots:
            _export_slurm_step_env(job)
        for number in (signal.SIGTERM, signal.SIGINT):  # until the worker sets its handlers
            signal.signal(number, _exit_on_signal)
        slurm_context = context.SlurmExecutionContext(self.minutes, self.warning_s, started, job.paths.stderr)
        folder, rank = RunFolder(Path(self.run)), rank_and_world_size()[0]
        if rank == 0:
            _redirect_output(folder.path / "log.txt")
            logging.getLogger("submitit").propagate = False  # it has its own handler
            for leftover in job.paths.folder.glob(f"{job.job_id}_*.save_tmp"):  # submitit fails if one exists
                leftover.unlink(missing_ok=True)
        if reason := self._blocked_by_parent(folder):
            if rank == 0:
                _record_status(folder, Status(State.PLANNED, message=reason))
            sys.exit(f"{self.label}: {reason}")
        with self._resources(job, rank):
            code = self._work(folder, slurm_context) if rank == 0 else _work_as_rank(self._options(), job)
        if rank == 0 and code == STOPPED and (status := folder.status()).state in (State.TIMEOUT, State.PREEMPTED):
            self._requeue(folder, status, submitit_handler, job.paths.stderr)
        if code:
            sys.exit(code)  # else the cluster would report COMPLETED
        for number in worker.STOP_SIGNALS:  # the run is done: nothing to interrupt
            signal.signal(number, signal.SIG_IGN)
        return "done"

    def checkpoint(self) -> DelayedSubmission:
        """For submitit: the same call again, since all state is in the run's folder."""
        return DelayedSubmission(self)

    def _options(self) -> list[str]:
        return [self.run, "--device", self.device, "--threads", str(self.threads)]

    def _work(self, folder: RunFolder, execution_context: ExecutionContext) -> int:
        """An exit code of bench.work. A lease of a process that died on another host expires after LEASE_TIMEOUT_S."""
        deadline = time.monotonic() + LEASE_TIMEOUT_S + 6 * RETRY_S
        while (code := direct.main(self._options(), execution_context)) == LOCKED and time.monotonic() < deadline:
            time.sleep(RETRY_S)
        return code

    def _blocked_by_parent(self, folder: RunFolder) -> str:
        """Why the run cannot start: a parent without weights. On a workstation it waits until the parent has failed."""
        for parent in self.parents:
            other = RunFolder(folder.path.parent / parent)
            while other.training() is None:
                state = other.status().state
                if not self.slots or (state.failed and state is not State.PREEMPTED):  # a preempted one is requeued
                    return f"parent run {parent} is {state} and has no weights"
                time.sleep(RETRY_S)
        return ""

    @contextlib.contextmanager
    def _resources(self, job: JobEnvironment, rank: int) -> Iterator[None]:
        """A slot of a workstation, and a node-local folder for temporary files."""
        with contextlib.ExitStack() as stack:
            if self.slots:
                folder = cache_dir() / "slots"
                stack.enter_context(acquire_slot(folder, self.slots, self.gpus, str(job.job_id), rank == 0))
            if self.scratch:
                stack.enter_context(_scratch(Path(os.path.expandvars(self.scratch)).expanduser()))
            yield

    def _requeue(self, folder: RunFolder, status: Status, submitit_handler: Any, messages: Path) -> None:
        """Requeue a timed-out job through submitit, which counts; retried while the controller is down."""
        while (context.classify_log(messages) or (State.TIMEOUT,))[0] is State.TIMEOUT:  # SLURM requeues preempted jobs
            try:
                submitit_handler(signal.SIGUSR2, None)
            except UncompletedJobError as error:
                message = f"{status.message}; {error}; pass --retry {status.state} to resume"
                _record_status(folder, Status(status.state, status.phase, message))
                return
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired, OSError) as error:
                log.warning("requeue failed, retrying: %s", error)
                time.sleep(RETRY_S)


@dataclass(frozen=True)
class CollectJob:
    """Write tables, figures and the report of a sweep after its runs have ended."""

    sweep: str
    results: str
    report: bool = True
    wait_for: tuple[ProcessIdentity, ...] = ()  # on a workstation; on a cluster the scheduler holds the job back

    def __call__(self) -> list[str]:
        from bench.slurm.collect import collect

        while any(process.is_running for process in self.wait_for):
            time.sleep(RETRY_S)
        return [str(path) for path in collect(Path(self.sweep), Path(self.results), self.report)]

    def checkpoint(self) -> DelayedSubmission:
        """For submitit: an interrupted job starts again."""
        return DelayedSubmission(self)


def failure_file(jobs: Path, job: str, rank: int) -> Path:
    """The file in which a rank other than the first records its status for the postmortem."""
    restart = os.environ.get("SLURM_RESTART_COUNT", "0")
    return jobs / f"{job}_{rank}_failure_{restart}.json"


def _work_as_rank(options: list[str], job: JobEnvironment) -> int:
    try:
        return direct.main(options)
    except Exception as error:
        status = asdict(status_of_exception(error, "train"))
        status["message"] = f"rank {job.global_rank} on {job.hostname}: {status['message']}"
        path = failure_file(job.paths.folder, str(job.job_id), job.global_rank)
        path.write_text(json.dumps(status), encoding="utf-8")
        raise


def _export_slurm_step_env(job: JobEnvironment) -> None:
    """On a workstation: the variables by which the processes of a SLURM step find each other."""
    variables = {"SLURM_PROCID": job.global_rank, "SLURM_LOCALID": job.local_rank,
                 "SLURM_STEP_NUM_TASKS": job.num_tasks, "SLURM_JOB_ID": job.job_id}  # fmt: skip
    os.environ.update({key: str(value) for key, value in variables.items()})


def _exit_on_signal(number: int, _frame: object) -> NoReturn:
    """Handler until the worker has set its own."""
    sys.exit(128 + number)


def _redirect_output(path: Path) -> None:
    """Append stdout and stderr of this process and its children to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    with path.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _record_status(folder: RunFolder, status: Status) -> None:
    with Lease(folder.path) as lease:
        folder.set_status(status, lease.check)


@contextlib.contextmanager
def _scratch(parent: Path) -> Iterator[None]:
    """A folder of this job for temporary files and compiler caches, deleted at the end."""
    folder = parent / f"ead-bench-{os.environ.get('SLURM_JOB_ID', os.getpid())}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("TMPDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        os.environ[name] = str(folder if name == "TMPDIR" else folder / name.lower())
    tempfile.tempdir = None  # else the cached folder would be used
    try:
        yield
    finally:
        if local_rank() == 0:
            shutil.rmtree(folder, ignore_errors=True)
