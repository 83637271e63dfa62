"""How the runs of a sweep stand: from their files first, then as SLURM knows. No torch.

A run at its end is known by its files alone. One at work is known by its lease, which is touched every few seconds:
right without accounting and while the controller is down. Only for the others is SLURM asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.common.json_files import read_json, read_lines
from bench.common.process import ProcessIdentity
from bench.execution.progress import last_records, median_step_ms
from bench.runs.attempts import read_attempts
from bench.runs.folder import RunFolder, run_folder
from bench.runs.lease import (
    LEASE_TIMEOUT_S,
    Claim,
    current_claim,
    heartbeat_age_s,
)
from bench.runs.states import State
from bench.slurm import queue
from bench.slurm.queue import Job, Queue

JOB = "job.json"  # of a run folder: the job it was last handed to


@dataclass(frozen=True)
class RunState:
    """One run, by its files and its queue."""

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
    job: str = ""  # as scancel wants it
    restarts: int = 0
    log: str = ""
    unrecorded: State | None = None  # an end that SLURM tells of and the files do not

    @property
    def is_terminal(self) -> bool:
        """Whether nothing more will happen by itself."""
        return not self.state.is_active


@dataclass(frozen=True)
class SweepState:
    """The runs in the sweep's order, and whether SLURM answered where it was asked."""

    runs: list[RunState]
    answered: bool = True


def query_sweep(sweep: Path, results: Path) -> SweepState:
    """Raises UserError for damaged files."""
    lines = read_lines(sweep / "runs.jsonl")
    folders = {line["id"]: run_folder(results, line["id"]) for line in lines}
    jobs = {run: job_of(folder) for run, folder in folders.items()}
    asked = [jobs[run].get("job", "") for run, folder in folders.items() if _unclear(folder, jobs[run])]
    queued = queue.query_jobs(asked)
    runs = [derive_run_state(line, folders[line["id"]], jobs[line["id"]], queued) for line in lines]
    return SweepState(runs, queued.answered)


def job_of(folder: RunFolder) -> dict[str, Any]:
    """The job that a run was last handed to: {"job", "executor", "submission", "process"}; empty if it never was."""
    path = folder.path / JOB
    return read_json(path) if path.is_file() else {}


def process_of(job: dict[str, Any]) -> ProcessIdentity | None:
    """The process of a job on a workstation; None for other jobs, and those of versions that recorded a pid alone."""
    return ProcessIdentity.from_dict(job["process"]) if "process" in job else None


def active_claim(folder: RunFolder) -> Claim | None:
    """The claim of a process that has shown itself lately."""
    claim = current_claim(folder.path)
    if claim is None or claim.free or (not claim.holder.on_this_host and heartbeat_age_s(claim.path) > LEASE_TIMEOUT_S):
        return None
    return claim


def derive_run_state(line: dict[str, Any], folder: RunFolder, job: dict[str, Any], queued: Queue) -> RunState:
    """One run, from its line of runs.jsonl, its folder, its job and what SLURM said."""
    status, claim = folder.status(), active_claim(folder)
    there = queued.jobs.get(job.get("job", ""))
    state, message, unrecorded = _state(folder, job, claim is not None, there, queued.answered)
    tried = read_attempts(folder)
    last = tried[-1] if tried else {}
    records = last_records(folder.path / "metrics.jsonl")
    step, steps = int(records[-1]["step"]) if records else 0, int(line["steps"])
    per_step = median_step_ms(records)
    training = state is State.RUNNING and status.phase == "train"
    return RunState(
        id=line["id"], label=line["label"], state=state, phase=status.phase, message=message,
        trace=status.trace if state == status.state else "",
        step=step, steps=steps, loss=records[-1].get("loss") if records else None,
        steps_per_s=1000 / per_step if per_step else None,
        remaining_s=per_step / 1000 * (steps - step) if training and per_step else None,
        node=(there.node if there and there.runs else "") or last.get("host", ""),
        job=job.get("job", ""),
        restarts=max(0, sum(a.get("job", "").partition(".")[0] == last.get("job", "").partition(".")[0]
                            for a in tried) - 1),
        log=str(folder.path / "log.txt") if (folder.path / "log.txt").is_file() else "",
        unrecorded=unrecorded,
    )  # fmt: skip


def _unclear(folder: RunFolder, job: dict[str, Any]) -> bool:
    """Whether SLURM can tell more than the files."""
    return job.get("executor") == "slurm" and not folder.status().state.is_final and active_claim(folder) is None


def _state(
    folder: RunFolder, job: dict[str, Any], working: bool, there: Job | None, answered: bool
) -> tuple[State, str, State | None]:
    """State, message, and the end that only SLURM knows of."""
    status = folder.status()
    if status.state.is_final or (working and status.state is State.RUNNING):
        return status.state, status.message, None
    if working:
        return State.STARTING, status.message, None
    before = f"{status.state}: {status.message}; " if status.state.is_terminal else ""
    process = process_of(job)
    if process and process.alive:
        if status.state is State.RUNNING:
            return State.STARTING, "", None
        return State.QUEUED, f"{before}waits for its turn", None
    if there and there.is_pending:
        return State.QUEUED, f"{before}{there.reason or there.slurm_state}", None
    if there and there.runs:
        return State.STARTING, f"{before}SLURM: {there.slurm_state.lower()}", None
    return _over(status.state, status.message, there, job, answered)


def _over(
    state: State, message: str, there: Job | None, job: dict[str, Any], answered: bool
) -> tuple[State, str, State | None]:
    """Of a run on which nobody works and whose job is not in the queue."""
    if there and there.is_ended and state in (State.PLANNED, State.RUNNING, State.PREEMPTED):
        if state is State.PLANNED and message:  # it waited for a run that failed
            return state, message, None
        end = State.LOST if there.is_ended in (State.DONE, State.FAILED) else there.is_ended
        return end, f"SLURM: {there.slurm_state.lower()}{f' ({there.reason})' if there.reason else ''}", end
    if state is State.RUNNING:
        if not answered:
            return State.LOST, "nobody has worked on it lately, and SLURM does not answer", None
        return State.LOST, "nobody works on it any more", State.LOST
    if state is State.PLANNED and job and not message:
        if (process := process_of(job)) and not process.on_this_host:
            return state, f"{process} cannot be seen from this host", None
        return state, "SLURM does not answer" if not answered else f"job {job['job']} is gone", None
    return state, message, None
