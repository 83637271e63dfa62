"""What the end of a run means: an exception, or a request to stop, as a state with its reason."""

from __future__ import annotations

import traceback

from bench.common import disk
from bench.common.errors import UserError
from bench.runs.folder import Status
from bench.runs.states import State

TRACE_LINES = 12
PEER_LOST_PATTERNS = (
    "Connection closed by peer",
    "Connection reset",
    "Socket Timeout",
    "NCCL",
    "gloo",
)  # of an exchange


class ExecutionContext:
    """What a run's end means where it runs; bench.slurm knows more than that about a cluster."""

    patient = False  # whether a second signal is no more urgent than the first

    def classify_stop(self, asked: str) -> tuple[State, str]:
        """The state of a run that was asked to stop, and by whom."""
        return State.CANCELLED, asked or "interrupted"

    def classify_missing_exit(self, host: str) -> tuple[State, str]:
        """How an earlier attempt ended that left no word."""
        return State.LOST, f"ended without a word on {host}: killed, or its machine failed"


def status_of_exception(error: BaseException, phase: str) -> Status:
    """What an exception says about a run that nobody asked to stop."""
    import torch

    from bench.training.diagnostics import NonFinite

    text = str(error) or type(error).__name__
    trace = "".join(traceback.format_exception(error)).splitlines()[-TRACE_LINES:]
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text
    if disk.is_disk_full(error):
        return Status(State.FAILED, phase, f"the disk is full ({text}); make room, then --retry failed goes on")
    if isinstance(error, NonFinite):
        return Status(State.NAN, phase, text)
    if isinstance(error, UserError):
        return Status(State.FAILED, phase, text)
    if torch.distributed.is_initialized() and not memory and any(sign in text for sign in PEER_LOST_PATTERNS):
        return Status(State.LOST, phase, f"another process of the run is gone: {text}", "\n".join(trace))
    return Status(State.OOM if memory else State.FAILED, phase, f"{type(error).__name__}: {text}", "\n".join(trace))
