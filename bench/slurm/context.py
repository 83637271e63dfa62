"""Why a run was asked to stop, or vanished, on a cluster: SLURM's own words in the job's log, then scontrol's."""

from __future__ import annotations

import os
import re
import time
from datetime import datetime
from pathlib import Path

from bench.common.environment import rank_and_world_size
from bench.execution.endings import ExecutionContext
from bench.runs.states import State
from bench.slurm import queue

JOBS = "jobs"  # submitit's files of a submission, SLURM's messages among them
EARLY_S = 75.0  # SLURM may warn a minute early
JOB_START_MARKER = "EAD-Bench: job"  # what a batch script says first, each time it is started
LOG_PATTERNS: tuple[tuple[str, State, str], ...] = (
    (
        r"[Ee]xceeded (?:step |job )?memory limit|oom[-_]kill|Out [Oo]f [Mm]emory|OOM Killed",
        State.OOM,
        "host memory used up",
    ),
    ("DUE TO TIME LIMIT", State.TIMEOUT, "killed at the time limit"),
    ("DUE TO PREEMPTION", State.PREEMPTED, "preempted"),
    ("DUE TO NODE FAILURE", State.NODE_FAIL, "a node failed"),
    ("DUE TO JOB REQUEUE", State.PREEMPTED, "put back into the queue"),
)


class SlurmExecutionContext(ExecutionContext):
    """Of a job: its time limit, how long before it SLURM warns, when it began, and where SLURM's messages go."""

    patient = True  # a preempted job gets two signals at once

    def __init__(self, minutes: int, warning_s: int, began: float, log: Path) -> None:
        self.minutes, self.limit_s, self.warning_s, self.began, self.log = (
            minutes,
            60.0 * minutes,
            warning_s,
            began,
            log,
        )

    def classify_stop(self, asked: str) -> tuple[State, str]:
        """The state of a run that got a signal, and the reason in words."""
        if found := read(self.log):
            return found
        job = queue.show(os.environ.get("SLURM_JOB_ID", "")) or {}
        word = job.get("JobState", "")
        if word == "PREEMPTED" or _seconds(job.get("PreemptTime")):
            return State.PREEMPTED, "preempted"
        if "SIGUSR2" in asked:
            if self._limit_near(job):
                return State.TIMEOUT, f"time limit of {self.minutes} min"
            return State.PREEMPTED, "asked to leave before the time limit (SIGUSR2)"
        if word == "RUNNING" and rank_and_world_size()[1] > 1:
            return State.LOST, "another process of the run is gone"
        if word in ("COMPLETING", "CANCELLED"):
            return State.CANCELLED, "cancelled by scancel"
        return State.CANCELLED, asked or "asked to stop"

    def classify_missing_exit(self, host: str) -> tuple[State, str]:
        """node_fail if the node of the earlier attempt is down now."""
        state = queue.node_state(host) if host else ""
        if state.startswith(("down", "fail", "drain", "drng", "unk", "boot")) or "*" in state:
            return State.NODE_FAIL, f"node {host} failed (now {state})"
        return State.LOST, f"ended without a word on {host}: killed, or its node failed"

    def _limit_near(self, job: dict[str, str]) -> bool:
        end = _seconds(job.get("EndTime")) or self.began + self.limit_s
        return time.time() >= end - self.warning_s - EARLY_S


def _seconds(text: str | None) -> float | None:
    """SLURM's local time as seconds since the epoch."""
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:  # Unknown, None, N/A
        return None


def read(log: Path) -> tuple[State, str] | None:
    """What SLURM's messages since the job was last started say of its end."""
    text = since_start(log)
    for pattern, state, message in LOG_PATTERNS:
        if found := re.search(f".*(?:{pattern}).*", text):
            return state, f"{message} ({found[0].strip()[:200]})"
    return None


def killed(log: Path) -> str:
    """srun's own word on the first process that ended badly: "gpu01: task 1: Killed"; empty without one."""
    found = re.search(r"srun: error: (\S+: tasks? [\d,-]+: .*)", since_start(log))
    return found[1].strip() if found else ""


def since_start(log: Path) -> str:
    """A job's log is appended to each time it is started; only the last time counts."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return text[max(0, text.rfind(JOB_START_MARKER)) :]
