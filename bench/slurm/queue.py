"""What SLURM says of jobs: squeue first, sacct for those that it has forgotten. No answer is an answer, too."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from bench.runs.states import State

COMMAND_TIMEOUT_S = 12.0  # a client gives up on a controller that is down after about 9 s
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
    slurm_state: str  # SLURM's state
    reason: str = ""
    node: str = ""

    @property
    def is_pending(self) -> bool:
        return self.slurm_state in WAITING

    @property
    def is_ended(self) -> State | None:
        """The bad or good end that SLURM tells of; None while the job waits or runs."""
        return ENDS.get(self.slurm_state)

    @property
    def runs(self) -> bool:
        return not self.is_pending and self.is_ended is None


@dataclass(frozen=True)
class Queue:
    """What was asked for; `answered` is False when neither the controller nor accounting could be reached."""

    jobs: dict[str, Job]
    answered: bool


def query_jobs(ids: Iterable[str]) -> Queue:
    """The jobs of these ids that SLURM still knows of."""
    wanted = sorted({i for i in ids if i})
    if not wanted:
        return Queue({}, True)
    listed = squeue(wanted)
    found = listed or {}
    forgotten = [i for i in wanted if i not in found]
    accounted = sacct(forgotten) if forgotten else {}
    return Queue({**(accounted or {}), **found}, listed is not None or bool(accounted))


def squeue(ids: Iterable[str]) -> dict[str, Job] | None:
    """None without SLURM, or while the controller is down. Ended jobs stay known for its MinJobAge."""
    bases = sorted({i.split("_")[0] for i in ids})
    options = ["--noheader", "--array", "--states=all", "--format=%i|%T|%r|%N", "--jobs"]
    output = run_slurm_command("squeue", *options, ",".join(bases), accept=("Invalid job id",))
    if output is None:
        return None
    rows = (line.split("|") for line in output.splitlines() if line.count("|") == 3)
    return {job: Job(job, word, "" if reason == "None" else reason, node) for job, word, reason, node in rows}


def sacct(ids: Iterable[str]) -> dict[str, Job] | None:
    """None without accounting. A step that ran out of memory decides: its job is told as failed."""
    bases = sorted({i.split("_")[0] for i in ids})
    output = run_slurm_command(
        "sacct", "--noheader", "--parsable2", "--format=JobID,State,NodeList", "--jobs", ",".join(bases)
    )
    if output is None:
        return None
    found: dict[str, Job] = {}
    for line in output.splitlines():
        name, word, node = line.split("|")
        job, _, step = name.partition(".")
        word = word.split()[0] if word else ""
        if not step:
            for each in _elements(job):
                found[each] = Job(each, word, "", node)
        elif word == "OUT_OF_MEMORY" and job in found:
            found[job] = Job(job, word, "", found[job].node)
    return found


def show(job: str) -> dict[str, str] | None:
    """`scontrol show job`: key → value. None if it is not known, or nobody answers."""
    output = run_slurm_command("scontrol", "show", "job", "--oneliner", job)
    if not output:
        return None
    return dict(re.findall(r"(\w+)=(\S*)", output.splitlines()[0]))


def node_state(node: str) -> str:
    """Such as "idle", "down*"; empty if not known."""
    return (
        (run_slurm_command("sinfo", "--noheader", "--Node", "--format=%t", "--nodes", node) or "")
        .split("\n")[0]
        .strip()
    )


def run_slurm_command(*command: str, accept: tuple[str, ...] = ()) -> str | None:
    """A client's output; None if there is none such, it fails or takes too long. `accept`: errors that mean nothing."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode and not any(text in done.stderr for text in accept):
        return None
    return done.stdout


def _elements(job: str) -> list[str]:
    """Of sacct's "123_[0-2,5%4]" each; of others themselves."""
    found = re.fullmatch(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]", job)
    if not found:
        return [job]
    spans = (span.partition("-") for span in found[2].split(","))
    return [f"{found[1]}_{i}" for first, _, last in spans for i in range(int(first), int(last or first) + 1)]
