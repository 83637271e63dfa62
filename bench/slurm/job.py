"""What a job does, as submitit calls it in every process of a step.

Signals only set a flag; once training has written its checkpoint, submitit's own handler puts the job back into the
queue. A job that is started again, by whomever, finds its run's newest checkpoint by itself.
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
from bench.execution import worker
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
    """One run. Everything in it is plain: what it names is read from the run's folder when the job starts."""

    run: str  # folder
    label: str
    device: str
    threads: int
    parents: tuple[str, ...] = ()
    minutes: int = 60
    warning_s: int = 180
    scratch: str | None = None
    slots: int = 0  # of a workstation; 0 on a cluster
    gpus: int = 0

    def __call__(self) -> str:
        began, put_back = time.time(), signal.getsignal(signal.SIGUSR2)
        job = JobEnvironment()
        if self.slots:
            _pose_as_step(job)
        for number in (signal.SIGTERM, signal.SIGINT):  # until the run's own; SIGUSR2 is submitit's until then
            signal.signal(number, _quit)
        here = context.SlurmExecutionContext(self.minutes, self.warning_s, began, job.paths.stderr)
        folder, rank = RunFolder(Path(self.run)), rank_and_world_size()[0]
        if rank == 0:
            _log_to(folder.path / "log.txt")
            logging.getLogger("submitit").propagate = False  # it has a handler of its own
            for torn in job.paths.folder.glob(f"{job.job_id}_*.save_tmp"):  # submitit refuses to write beside one
                torn.unlink(missing_ok=True)
        if waits_for := self._untrained(folder):
            if rank == 0:
                _set(folder, Status(State.PLANNED, message=f"it starts from {waits_for}"))
            sys.exit(f"{self.label} starts from {waits_for}")
        with self._place(job, rank):
            code = self._work(folder, here) if rank == 0 else _follow(folder, self._options(), job)
        if rank == 0 and code == STOPPED and (status := folder.status()).state in (State.TIMEOUT, State.PREEMPTED):
            self._requeue(folder, status, put_back, job.paths.stderr)
        if code:
            sys.exit(code)  # so that the cluster does not call a bad end completed
        for number in worker.STOP_SIGNALS:  # too late
            signal.signal(number, signal.SIG_IGN)
        return "done"

    def checkpoint(self) -> DelayedSubmission:
        """For submitit; what there is to keep stands in the run's folder already."""
        return DelayedSubmission(self)

    def _options(self) -> list[str]:
        return [self.run, "--device", self.device, "--threads", str(self.threads)]

    def _work(self, folder: RunFolder, here: ExecutionContext) -> int:
        """An exit code of bench.work. A holder that has just died elsewhere keeps its lease for a while."""
        deadline = time.monotonic() + LEASE_TIMEOUT_S + 6 * RETRY_S
        while (code := worker.main(self._options(), here)) == LOCKED and time.monotonic() < deadline:
            time.sleep(RETRY_S)
        return code

    def _untrained(self, folder: RunFolder) -> str:
        """The first parent without weights, and how it stands; on a workstation only once it is at a bad end."""
        for parent in self.parents:
            other = RunFolder(folder.path.parent / parent)
            while other.training() is None:
                state = other.status().state
                if not self.slots or (state.failed and state is not State.PREEMPTED):  # a preempted one comes back
                    return f"run {parent}, which is {state}"
                time.sleep(RETRY_S)
        return ""

    @contextlib.contextmanager
    def _place(self, job: JobEnvironment, rank: int) -> Iterator[None]:
        """A slot of a workstation; a folder of the node's own for temporary files."""
        with contextlib.ExitStack() as stack:
            if self.slots:
                folder = cache_dir() / "slots"
                stack.enter_context(acquire_slot(folder, self.slots, self.gpus, str(job.job_id), rank == 0))
            if self.scratch:
                stack.enter_context(_scratch(Path(os.path.expandvars(self.scratch)).expanduser()))
            yield

    def _requeue(self, folder: RunFolder, status: Status, put_back: Any, messages: Path) -> None:
        """Through submitit, which counts; again and again while the controller is down."""
        while (context.read(messages) or (State.TIMEOUT,))[0] is State.TIMEOUT:  # else SLURM does so itself
            try:
                put_back(signal.SIGUSR2, None)
            except UncompletedJobError as error:
                message = f"{status.message}; {error}; --retry {status.state} goes on"
                _set(folder, Status(status.state, status.phase, message))
                return
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired, OSError) as error:
                log.warning("not back in the queue yet: %s", error)
                time.sleep(RETRY_S)


@dataclass(frozen=True)
class CollectJob:
    """Tables, figures and the report of a sweep, once its runs have ended."""

    sweep: str
    results: str
    report: bool = True
    wait_for: tuple[ProcessIdentity, ...] = ()  # processes, on a workstation; a cluster's scheduler waits by itself

    def __call__(self) -> list[str]:
        from bench.slurm.collect import collect

        while any(process.alive for process in self.wait_for):
            time.sleep(RETRY_S)
        return [str(path) for path in collect(Path(self.sweep), Path(self.results), self.report)]

    def checkpoint(self) -> DelayedSubmission:
        """For submitit: a collection that is cut short begins anew."""
        return DelayedSubmission(self)


def failure(jobs: Path, job: str, rank: int) -> Path:
    """Where a process that is not the first tells the batch script why it failed."""
    restart = os.environ.get("SLURM_RESTART_COUNT", "0")
    return jobs / f"{job}_{rank}_failure_{restart}.json"


def _follow(folder: RunFolder, options: list[str], job: JobEnvironment) -> int:
    try:
        return worker.main(options)
    except Exception as error:
        told = asdict(status_of_exception(error, "train"))
        told["message"] = f"rank {job.global_rank} on {job.hostname}: {told['message']}"
        failure(job.paths.folder, str(job.job_id), job.global_rank).write_text(json.dumps(told), encoding="utf-8")
        raise


def _pose_as_step(job: JobEnvironment) -> None:
    """A workstation's processes find each other as those of a step do."""
    told = {"SLURM_PROCID": job.global_rank, "SLURM_LOCALID": job.local_rank, "SLURM_STEP_NUM_TASKS": job.num_tasks,
            "SLURM_JOB_ID": job.job_id}  # fmt: skip
    os.environ.update({key: str(value) for key, value in told.items()})


def _quit(number: int, _frame: object) -> NoReturn:
    """Before anything has begun."""
    sys.exit(128 + number)


def _log_to(path: Path) -> None:
    """What this process and its children print."""
    sys.stdout.flush()
    sys.stderr.flush()
    with path.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _set(folder: RunFolder, status: Status) -> None:
    with Lease(folder.path) as lease:
        folder.set_status(status, lease.check)


@contextlib.contextmanager
def _scratch(parent: Path) -> Iterator[None]:
    folder = parent / f"ead-bench-{os.environ.get('SLURM_JOB_ID', os.getpid())}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("TMPDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        os.environ[name] = str(folder if name == "TMPDIR" else folder / name.lower())
    tempfile.tempdir = None  # look again
    try:
        yield
    finally:
        if local_rank() == 0:
            shutil.rmtree(folder, ignore_errors=True)
