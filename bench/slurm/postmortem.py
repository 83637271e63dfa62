"""`python -m bench.slurm.postmortem SUBMISSION GROUP INDEX CODE`: run by the batch script after a step failed.

A killed process cannot record a status, and the first rank may only know that another rank exited. A run that was
killed without a reason is requeued, max_crash_requeues times.
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
from bench.runs.lease import Lease, LeasedWriter, LeaseHeld, LeaseLost
from bench.runs.states import State
from bench.slurm import context, queue
from bench.slurm.context import JOBS

TRACE_LINES = 12
REQUEUE_TIMEOUT_S, RETRY_S = 900.0, 5.0  # while the controller does not answer
INCOMPLETE_SUBMISSION = "could not find submitted jobs"  # submitit's message when the submitting command was killed


def main(argv: list[str] | None = None) -> int:
    submission, group, index, code = argv or sys.argv[1:]
    plan = read_json(Path(submission) / "plan.json")
    folder = RunFolder(Path(plan["runs"]) / plan["groups"][int(group)][int(index)])
    jobs = Path(submission) / JOBS
    status = classify_exit(folder, jobs, int(code))
    if status and status.state is State.LOST:
        return requeue(folder, status, plan["max_crash_requeues"])
    return 0


def classify_exit(folder: RunFolder, jobs: Path, code: int) -> Status | None:
    """Classify and record the end of the run; None if a status is on file or another process has the lease."""
    before, job = folder.status(), job_name()
    last = (attempts.read_attempts(folder) or [{}])[-1]
    unexplained = before.state in (State.RUNNING, State.PLANNED, State.LOST)
    if not unexplained or (last and not _of_this_job(last)):
        return None
    if before.state is State.PLANNED and (
        before.message or INCOMPLETE_SUBMISSION in context.text_since_start(jobs / f"{job}_0_log.err")
    ):
        return None  # blocked by a parent run, or to be submitted again
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
        status = Status(**content | {"state": State(content["state"])})
        if status.state is not State.LOST:  # a lost rank only noticed that another one exited
            return status
    if classified := context.classify_log(messages):
        return Status(classified[0], before.phase, classified[1])
    failed_task = context.failed_task(messages)
    if before.state is State.PLANNED and (not failed_task or "exit code" in failed_task):
        trace = "\n".join(context.text_since_start(messages).splitlines()[-TRACE_LINES:])
        return Status(State.FAILED, "start", f"the job exited with code {code} before the run started", trace)
    if failed_task:
        return Status(State.LOST, before.phase, f"killed ({failed_task})")
    return Status(State.LOST, before.phase, before.message or f"the job step exited with code {code}")


def requeue(folder: RunFolder, status: Status, limit: int) -> int:
    """Requeue this job, at most `limit` times after a crash; retried while the controller is down. The exit code."""
    crashes = [a for a in attempts.read_attempts(folder) if a.get("state") == State.LOST and _of_this_job(a)]
    if len(crashes) > limit:
        print(f"{folder.id}: {status.message}; not requeued after {len(crashes)} crashes", file=sys.stderr)
        return 1
    print(f"{folder.id}: {status.message}; requeue {len(crashes)} of {limit}", file=sys.stderr)
    deadline = time.monotonic() + REQUEUE_TIMEOUT_S
    while queue.run_slurm_command("scontrol", "requeue", os.environ["SLURM_JOB_ID"]) is None:
        if time.monotonic() > deadline:
            return 1
        time.sleep(RETRY_S)
    return 0


def job_name() -> str:
    """The id of this job in the names of submitit's files."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def _of_this_job(attempt: dict[str, str]) -> bool:
    return attempt.get("job", "").partition(".")[0] == os.environ.get("SLURM_JOB_ID", "")


if __name__ == "__main__":
    sys.exit(main())
