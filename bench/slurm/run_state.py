"""States of the runs of a sweep: from their folders first, then from the scheduler. No torch.

A final status is on file. A running process has a lease with a heartbeat, which works without accounting and while the
controller is down. SLURM is queried for the other runs only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.common.json_files import read_json, read_lines
from bench.common.process import ProcessIdentity
from bench.execution.progress import last_records, median_step_ms
from bench.runs.attempts import read_attempts
from bench.runs.controllers import Controller, live_controllers
from bench.runs.folder import RunFolder, run_folder
from bench.runs.lease import LEASE_TIMEOUT_S, Claim, current_claim, heartbeat_age_s
from bench.runs.states import State
from bench.slurm import queue
from bench.slurm.queue import Job, Queue

JOB = "job.json"  # of a run folder: the job that the run was last submitted as


@dataclass(frozen=True)
class RunState:
    """State of one run, combined from its folder and the queue."""

    id: str
    label: str
    state: State
    phase: str = ""
    message: str = ""
    trace: str = ""
    step: int = 0
    steps: int = 0
    loss: float | None = None
    steps_per_s: float | None = None
    remaining_s: float | None = None  # of training
    node: str = ""
    job: str = ""  # id, as scancel takes it
    restarts: int = 0
    log: str = ""
    unrecorded: State | None = None  # final state by SLURM that is not on file yet

    @property
    def is_terminal(self) -> bool:
        """Whether no process and no queue will continue it."""
        return not self.state.is_active


@dataclass(frozen=True)
class SweepState:
    """The runs in the order of the sweep; `reachable` is False when SLURM was queried in vain."""

    runs: list[RunState]
    reachable: bool = True


def query_sweep(sweep: Path, results: Path) -> SweepState:
    """Raises UserError for damaged files."""
    lines = read_lines(sweep / "runs.jsonl")
    folders = {line["id"]: run_folder(results, line["id"]) for line in lines}
    jobs = {run: job_of(folder) for run, folder in folders.items()}
    unclear = [jobs[run]["job"] for run, folder in folders.items() if _needs_query(folder, jobs[run])]
    queued = queue.query_jobs(unclear)
    controllers = live_controllers(sweep)
    runs = [derive_run_state(line, folders[line["id"]], jobs[line["id"]], queued, controllers) for line in lines]
    return SweepState(runs, queued.reachable)


def job_of(folder: RunFolder) -> dict[str, Any]:
    """The job of a run: {"job", "executor", "submission", "process"}; empty if it was never submitted."""
    path = folder.path / JOB
    return read_json(path) if path.is_file() else {}


def process_of(job: dict[str, Any]) -> ProcessIdentity | None:
    """The process of a job on a workstation; None for SLURM jobs, and jobs of versions that recorded only a pid."""
    return ProcessIdentity.from_dict(job["process"]) if "process" in job else None


def active_claim(folder: RunFolder) -> Claim | None:
    """The lease claim of a process whose heartbeat is recent; None if there is none."""
    claim = current_claim(folder.path)
    if claim is None or claim.free or (not claim.holder.on_this_host and heartbeat_age_s(claim.path) > LEASE_TIMEOUT_S):
        return None
    return claim


def derive_run_state(
    line: dict[str, Any], folder: RunFolder, job: dict[str, Any], queued: Queue, controllers: Sequence[Controller]
) -> RunState:
    """State of one run from its line of runs.jsonl, its folder, its job.json, the queue and local commands."""
    status, claim = folder.status(), active_claim(folder)
    slurm_job = queued.jobs.get(job.get("job", ""))
    state, message, unrecorded = _state(folder, job, claim is not None, slurm_job, queued.reachable)
    if waits_for := _local_controller(folder, state, controllers):
        previous = f"{state}: {message}; " if state.is_terminal else ""
        state, message, unrecorded = State.QUEUED, f"{previous}waiting in {waits_for.process}", None
    attempts = read_attempts(folder)
    last = attempts[-1] if attempts else {}
    records = last_records(folder.path / "metrics.jsonl")
    step, steps = int(records[-1]["step"]) if records else 0, int({**line, **(folder.training() or {})}["steps"])
    per_step = median_step_ms(records)
    training = state is State.RUNNING and status.phase == "train"
    return RunState(
        id=line["id"], label=line["label"], state=state, phase=status.phase, message=message,
        trace=status.trace if state == status.state else "",
        step=step, steps=steps, loss=records[-1].get("loss") if records else None,
        steps_per_s=1000 / per_step if per_step else None,
        remaining_s=per_step / 1000 * (steps - step) if training and per_step else None,
        node=(slurm_job.node if slurm_job and slurm_job.is_running else "") or last.get("host", ""),
        job=job.get("job", ""),
        restarts=max(0, sum(a.get("job", "").partition(".")[0] == last.get("job", "").partition(".")[0]
                            for a in attempts) - 1),
        log=str(folder.path / "log.txt") if (folder.path / "log.txt").is_file() else "",
        unrecorded=unrecorded,
    )  # fmt: skip


def _local_controller(folder: RunFolder, state: State, controllers: Sequence[Controller]) -> Controller | None:
    """The command on this machine that is going to start the run; None if it has ended since the command started."""
    if state.is_active or state.is_final:
        return None
    path = folder.path / "status.json"
    changed = path.stat().st_mtime if path.is_file() else 0.0
    return next((c for c in controllers if folder.id in c.runs and changed < c.since), None)


def _needs_query(folder: RunFolder, job: dict[str, Any]) -> bool:
    """Whether SLURM may know more than the files."""
    return job.get("executor") == "slurm" and not folder.status().state.is_final and active_claim(folder) is None


def _state(
    folder: RunFolder, job: dict[str, Any], working: bool, slurm_job: Job | None, reachable: bool
) -> tuple[State, str, State | None]:
    """State, message, and the final state that only SLURM knows of."""
    status = folder.status()
    if status.state.is_final or (working and status.state is State.RUNNING):
        return status.state, status.message, None
    if working:
        return State.STARTING, status.message, None
    previous = f"{status.state}: {status.message}; " if status.state.is_terminal else ""
    process = process_of(job)
    if process and process.is_running:
        if status.state is State.RUNNING:
            return State.STARTING, "", None
        return State.QUEUED, f"{previous}waiting for a free slot", None
    if slurm_job and slurm_job.is_pending:
        return State.QUEUED, f"{previous}{slurm_job.reason or slurm_job.slurm_state}", None
    if slurm_job and slurm_job.is_running:
        return State.STARTING, f"{previous}SLURM: {slurm_job.slurm_state.lower()}", None
    return _inactive_state(status.state, status.message, slurm_job, job, reachable)


def _inactive_state(
    state: State, message: str, slurm_job: Job | None, job: dict[str, Any], reachable: bool
) -> tuple[State, str, State | None]:
    """As `_state`, of a run without a live process and without a job in the queue."""
    if slurm_job and slurm_job.end_state and state in (State.PLANNED, State.RUNNING, State.PREEMPTED):
        if state is State.PLANNED and message:  # its parent run failed
            return state, message, None
        end = State.LOST if slurm_job.end_state in (State.DONE, State.FAILED) else slurm_job.end_state
        return end, f"SLURM: {slurm_job.slurm_state.lower()}{f' ({slurm_job.reason})' if slurm_job.reason else ''}", end
    if state is State.RUNNING:
        if not reachable:
            return State.LOST, "no recent heartbeat, and SLURM does not answer", None
        return State.LOST, "no process is running it", State.LOST
    if state is State.PLANNED and job and not message:
        if (process := process_of(job)) and not process.on_this_host:
            return state, f"{process} cannot be queried from this host", None
        return state, "SLURM does not answer" if not reachable else f"job {job['job']} no longer exists", None
    return state, message, None
