"""Cancel jobs; running ones write a checkpoint first."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench.common.errors import UserError
from bench.runs.folder import Status, run_folder
from bench.runs.lease import Lease, LeaseHeld
from bench.runs.states import State
from bench.slurm.queue import COMMAND_TIMEOUT_S
from bench.slurm.run_state import RunState, job_of, process_of


def cancel(runs: Sequence[RunState], results: Path) -> None:
    """Cancel the jobs of these runs; a running job records its final status itself, for a queued one it is done here.

    Raises UserError if SLURM refuses or does not answer; and, after all others are cancelled, for processes of other
    hosts, which cannot be signaled from here.
    """
    jobs = {run.id: job_of(run_folder(results, run.id)) for run in runs}
    if slurm_jobs := [run.job for run in runs if jobs[run.id]["executor"] == "slurm"]:
        _scancel(slurm_jobs)
    unreachable = []
    for run in runs:
        if jobs[run.id]["executor"] == "local":
            process = process_of(jobs[run.id])
            if process is None or not process.on_this_host:
                unreachable.append(f"{run.label} ({process or f'process {run.job}, of which only the pid is known'})")
                continue
            process.send_signal(signal.SIGTERM)
        if run.state is State.QUEUED:
            _record_cancelled(run, results)
    if unreachable:
        raise UserError(f"cannot be signaled from this host: {'; '.join(unreachable)}; cancel on the host that runs it")


def _scancel(jobs: Sequence[str]) -> None:
    try:
        done = subprocess.run(["scancel", *jobs], capture_output=True, text=True, timeout=5 * COMMAND_TIMEOUT_S)
    except FileNotFoundError as error:
        raise UserError("SLURM is not installed here: scancel is not on PATH") from error
    except subprocess.TimeoutExpired as error:
        raise UserError("SLURM's controller does not answer (scancel): jobs may still run; retry later") from error
    if done.returncode:
        raise UserError(f"scancel: {done.stderr.strip()}")


def _record_cancelled(run: RunState, results: Path) -> None:
    """Status of a queued run: no process exists that could record it."""
    folder = run_folder(results, run.id)
    try:
        with Lease(folder.path) as lease:
            folder.set_status(Status(State.CANCELLED, run.phase, "cancelled while queued"), lease.check)
    except LeaseHeld:  # it has just started
        return
