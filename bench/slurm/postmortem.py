"""`python -m bench.slurm.postmortem SUBMISSION GROUP INDEX CODE`: by the batch script, once a step has ended badly.

A killed process cannot write how it ended, and the first rank may only know that others are gone. A run that was
killed without a reason goes back into the queue, a few times.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from bench.common.json_files import read_json
from bench.runs import attempts
from bench.runs.folder import RunFolder, Status
from bench.runs.lease import (
    Lease,
    LeasedWriter,
    LeaseHeld,
    LeaseLost,
)
from bench.runs.states import State
from bench.slurm import context, queue
from bench.slurm.context import JOBS

TAIL = 12  # lines
PATIENCE_S, RETRY_S = 900.0, 5.0  # with a controller that does not answer
CUT_SHORT = "could not find submitted jobs"  # submitit's words when the submitting command died half-way


def main(argv: list[str] | None = None) -> int:
    submission, group, index, code = argv or sys.argv[1:]
    plan = read_json(Path(submission) / "plan.json")
    folder = RunFolder(Path(plan["runs"]) / plan["groups"][int(group)][int(index)])
    jobs = Path(submission) / JOBS
    status = classify_exit(folder, jobs, int(code))
    if status and status.state is State.LOST:
        return requeue(folder, status, plan["max_losses"])
    return 0


def classify_exit(folder: RunFolder, jobs: Path, code: int) -> Status | None:
    """How the run ended, written down if it could not do so itself; None if that is known, or somebody works on it."""
    before, job = folder.status(), name()
    last = (attempts.read_attempts(folder) or [{}])[-1]
    mine = os.environ.get("SLURM_JOB_ID", "")
    unexplained = before.state in (State.RUNNING, State.PLANNED, State.LOST)
    if not unexplained or (last and last["job"].partition(".")[0] != mine):
        return None
    if before.state is State.PLANNED and (
        before.message or CUT_SHORT in context.since_start(jobs / f"{job}_0_log.err")
    ):
        return None  # it waits for another run, or will be submitted again
    status = _cause(folder, jobs, job, code, before)
    try:
        with Lease(folder.path) as lease:
            writer = LeasedWriter(folder.path, lease)
            folder.set_status(status, writer.check)
            if last:
                attempts.finish_attempt(writer, status, last["number"])
    except (LeaseHeld, LeaseLost):
        return None
    return status


def _cause(folder: RunFolder, jobs: Path, job: str, code: int, before: Status) -> Status:
    messages = jobs / f"{job}_0_log.err"
    restart = os.environ.get("SLURM_RESTART_COUNT", "0")
    for path in sorted(jobs.glob(f"{job}_*_failure_{restart}.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        told = Status(**content | {"state": State(content["state"])})
        if told.state is not State.LOST:  # else it only missed the others
            return told
    if found := context.read(messages):
        return Status(found[0], before.phase, found[1])
    killed = context.killed(messages)
    if before.state is State.PLANNED and (not killed or "exit code" in killed):
        trace = "\n".join(context.since_start(messages).splitlines()[-TAIL:])
        return Status(State.FAILED, "start", f"the job ended with exit code {code} before the run began", trace)
    if killed:
        return Status(State.LOST, before.phase, f"killed ({killed})")
    return Status(State.LOST, before.phase, before.message or f"the step ended with exit code {code}")


def requeue(folder: RunFolder, status: Status, most: int) -> int:
    """A killed run goes on from its checkpoint, if this has not happened too often already."""
    losses = [a for a in attempts.read_attempts(folder) if a.get("state") == State.LOST and _same_job(a)]
    if len(losses) > most:
        print(
            f"{folder.id}: {status.message}; killed {len(losses)} times: not put back into the queue", file=sys.stderr
        )
        return 1
    print(f"{folder.id}: {status.message}; back into the queue ({len(losses)} of {most})", file=sys.stderr)
    deadline = time.monotonic() + PATIENCE_S
    while (
        queue.run_slurm_command("scontrol", "requeue", os.environ["SLURM_JOB_ID"]) is None
    ):  # the controller may be down
        if time.monotonic() > deadline:
            return 1
        time.sleep(RETRY_S)
    return 0


def name() -> str:
    """This job as submitit names its files."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def _same_job(attempt: dict[str, str]) -> bool:
    return attempt.get("job", "").partition(".")[0] == os.environ["SLURM_JOB_ID"]


if __name__ == "__main__":
    sys.exit(main())
