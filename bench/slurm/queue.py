"""Job states by SLURM's clients: squeue first, sacct for jobs that squeue no longer lists."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from bench.runs.states import State

COMMAND_TIMEOUT_S = 12.0  # clients give up after about 9 s when the controller is down
ENDS: dict[str, State] = {
    "COMPLETED": State.DONE, "FAILED": State.FAILED, "CANCELLED": State.CANCELLED, "TIMEOUT": State.TIMEOUT,
    "DEADLINE": State.TIMEOUT, "PREEMPTED": State.PREEMPTED, "NODE_FAIL": State.NODE_FAIL,
    "BOOT_FAIL": State.NODE_FAIL, "OUT_OF_MEMORY": State.OOM, "REVOKED": State.CANCELLED,
}  # fmt: skip
WAITING = ("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")


@dataclass(frozen=True)
class Job:
    """A job, or an element of an array: "123" or "123_4"."""

    id: str
    slurm_state: str  # such as "PENDING"
    reason: str = ""
    node: str = ""

    @property
    def is_pending(self) -> bool:
        return self.slurm_state in WAITING

    @property
    def end_state(self) -> State | None:
        """The run state of an ended job; None while it is pending or running."""
        return ENDS.get(self.slurm_state)

    @property
    def is_running(self) -> bool:
        return not self.is_pending and self.end_state is None


@dataclass(frozen=True)
class Queue:
    """Jobs by id; `reachable` is False when neither the controller nor accounting could be reached."""

    jobs: dict[str, Job]
    reachable: bool


def query_jobs(ids: Iterable[str]) -> Queue:
    """Those of the jobs that squeue or sacct still lists."""
    unique = sorted({i for i in ids if i})
    if not unique:
        return Queue({}, True)
    listed = squeue(unique)
    unlisted = [i for i in unique if i not in (listed or {})]
    accounted = sacct(unlisted) if unlisted else {}
    return Queue({**(accounted or {}), **(listed or {})}, listed is not None or bool(accounted))


def squeue(ids: Iterable[str]) -> dict[str, Job] | None:
    """None without SLURM, or while the controller is down. Ended jobs are listed for MinJobAge seconds (slurm.conf)."""
    bases = sorted({i.split("_")[0] for i in ids})
    options = ["--noheader", "--array", "--states=all", "--format=%i|%T|%r|%N", "--jobs"]
    output = run_slurm_command("squeue", *options, ",".join(bases), accept=("Invalid job id",))
    if output is None:
        return None
    rows = (line.split("|") for line in output.splitlines() if line.count("|") == 3)
    return {job: Job(job, state, "" if reason == "None" else reason, node) for job, state, reason, node in rows}


def sacct(ids: Iterable[str]) -> dict[str, Job] | None:
    """None without accounting. A step's OUT_OF_MEMORY wins: SLURM calls the job of such a step FAILED."""
    bases = sorted({i.split("_")[0] for i in ids})
    output = run_slurm_command(
        "sacct", "--noheader", "--parsable2", "--format=JobID,State,NodeList", "--jobs", ",".join(bases)
    )
    if output is None:
        return None
    jobs: dict[str, Job] = {}
    for line in output.splitlines():
        name, state, node = line.split("|")
        job, _, step = name.partition(".")
        state = state.split()[0] if state else ""  # "CANCELLED by 1000"
        if not step:
            for element in array_elements(job):
                jobs[element] = Job(element, state, "", node)
        elif state == "OUT_OF_MEMORY" and job in jobs:
            jobs[job] = Job(job, state, "", jobs[job].node)
    return jobs


def show(job: str) -> dict[str, str] | None:
    """`scontrol show job`: key → value. None if the job is unknown or the controller does not answer."""
    output = run_slurm_command("scontrol", "show", "job", "--oneliner", job)
    if not output:
        return None
    return dict(re.findall(r"(\w+)=(\S*)", output.splitlines()[0]))


def node_state(node: str) -> str:
    """Such as "idle" or "down*"; empty if unknown."""
    output = run_slurm_command("sinfo", "--noheader", "--Node", "--format=%t", "--nodes", node) or ""
    return output.partition("\n")[0].strip()


def max_array_size() -> int | None:
    """MaxArraySize of slurm.conf (tasks of one array have indices below it); None if the controller does not answer."""
    match = re.search(r"MaxArraySize\s*=\s*(\d+)", run_slurm_command("scontrol", "show", "config") or "")
    return int(match[1]) if match else None


def run_slurm_command(*command: str, accept: tuple[str, ...] = ()) -> str | None:
    """Output of a client; None if it is missing, fails or times out. `accept`: stderr texts that are no failure."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode and not any(text in done.stderr for text in accept):
        return None
    return done.stdout


def array_elements(job: str) -> list[str]:
    """The jobs of sacct's "123_[0-2,5%4]"; any other id is its own only element."""
    match = re.fullmatch(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]", job)
    if not match:
        return [job]
    spans = (span.partition("-") for span in match[2].split(","))
    return [f"{match[1]}_{i}" for first, _, last in spans for i in range(int(first), int(last or first) + 1)]
