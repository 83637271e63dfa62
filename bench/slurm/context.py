"""Why a job was stopped or vanished: SLURM's messages in the job's log first, then `scontrol show job`."""

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

JOBS = "jobs"  # folder of a submission with submitit's files and the logs with SLURM's messages
EARLY_S = 75.0  # SLURM may send the warning signal a minute early
JOB_START_MARKER = "EAD-Bench: job"  # first line of a batch script's log, at each start
LOG_PATTERNS: tuple[tuple[str, State, str], ...] = (
    (r"[Ee]xceeded (?:step |job )?memory limit|oom[-_]kill|Out [Oo]f [Mm]emory|OOM Killed", State.OOM,
     "out of host memory"),
    ("DUE TO TIME LIMIT", State.TIMEOUT, "killed at the time limit"),
    ("DUE TO PREEMPTION", State.PREEMPTED, "preempted"),
    ("DUE TO NODE FAILURE", State.NODE_FAIL, "a node failed"),
    ("DUE TO JOB REQUEUE", State.PREEMPTED, "requeued"),
)  # fmt: skip


class SlurmExecutionContext(ExecutionContext):
    """A SLURM job: time limit in minutes, seconds between warning and limit, start time, log of SLURM's messages."""

    patient = True  # a preempted job gets two signals at once

    def __init__(self, minutes: int, warning_s: int, started: float, log: Path) -> None:
        self.minutes, self.warning_s, self.started, self.log = minutes, warning_s, started, log

    def classify_stop(self, signals: str) -> tuple[State, str]:
        """State and reason of a run that received these signals ("SIGTERM, SIGUSR2")."""
        if classified := classify_log(self.log):
            return classified
        job = queue.show(os.environ.get("SLURM_JOB_ID", "")) or {}
        slurm_state = job.get("JobState", "")
        if slurm_state == "PREEMPTED" or _seconds(job.get("PreemptTime")):
            return State.PREEMPTED, "preempted"
        if "SIGUSR2" in signals:
            if self._limit_near(job):
                return State.TIMEOUT, f"time limit of {self.minutes} min"
            return State.PREEMPTED, "signaled before the time limit (SIGUSR2)"
        if slurm_state == "RUNNING" and rank_and_world_size()[1] > 1:
            return State.LOST, "another rank exited"
        if slurm_state in ("COMPLETING", "CANCELLED"):
            return State.CANCELLED, "cancelled by scancel"
        return State.CANCELLED, signals or "stop requested"

    def classify_missing_exit(self, host: str) -> tuple[State, str]:
        """node_fail if the node of the earlier attempt is down now, else lost."""
        state = queue.node_state(host) if host else ""
        if state.startswith(("down", "fail", "drain", "drng", "unk", "boot")) or "*" in state:
            return State.NODE_FAIL, f"node {host} failed (now {state})"
        return State.LOST, f"terminated on {host} without recording a status (killed or node failure)"

    def _limit_near(self, job: dict[str, str]) -> bool:
        end = _seconds(job.get("EndTime")) or self.started + 60 * self.minutes
        return time.time() >= end - self.warning_s - EARLY_S


def _seconds(text: str | None) -> float | None:
    """SLURM's local time in seconds since the epoch; None for "Unknown" and the like."""
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        return None


def classify_log(log: Path) -> tuple[State, str] | None:
    """State and reason by SLURM's messages since the last start of the job; None without such a message."""
    text = text_since_start(log)
    for pattern, state, message in LOG_PATTERNS:
        if match := re.search(f".*(?:{pattern}).*", text):
            return state, f"{message} ({match[0].strip()[:200]})"
    return None


def failed_task(log: Path) -> str:
    """srun's message on the first task that failed: "gpu01: task 1: Killed"; empty without one."""
    match = re.search(r"srun: error: (\S+: tasks? [\d,-]+: .*)", text_since_start(log))
    return match[1].strip() if match else ""


def text_since_start(log: Path) -> str:
    """The part of a job's log that its last start wrote: a requeued job appends to the log."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return text[max(0, text.rfind(JOB_START_MARKER)) :]
