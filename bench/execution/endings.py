"""Classification of how a run ended: an exception, or a request to stop → a state with its reason."""

from __future__ import annotations

import traceback

from bench.common import disk
from bench.common.errors import UserError, remedy
from bench.runs.folder import Status
from bench.runs.states import State

TRACE_LINES = 12
PEER_LOST_PATTERNS = ("Connection closed by peer", "Connection reset", "Socket Timeout", "NCCL", "gloo")


class ExecutionContext:
    """What a run's end means where it runs: here a local process; bench.slurm.context knows more about a job."""

    patient = False  # whether a second signal is no more urgent than the first

    def classify_stop(self, signals: str) -> tuple[State, str]:
        """(state, reason) of a run that received signals ("SIGTERM, SIGUSR2", or another reason to stop)."""
        return State.CANCELLED, signals or "interrupted"

    def classify_missing_exit(self, host: str) -> tuple[State, str]:
        """(state, reason) of an earlier attempt that recorded no status."""
        return State.LOST, f"terminated on {host} without recording a status (killed or host failure)"


def status_of_exception(error: BaseException, phase: str) -> Status:
    """The status of a run that an exception ended without a stop request."""
    import torch

    from bench.training.diagnostics import NonFinite

    text = str(error) or type(error).__name__
    trace = "".join(traceback.format_exception(error)).splitlines()[-TRACE_LINES:]
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text
    if disk.is_disk_full(error):
        return Status(State.FAILED, phase, f"the disk is full ({text}): free space, then pass --retry failed to resume")
    if isinstance(error, NonFinite):
        return Status(State.NAN, phase, text)
    if isinstance(error, UserError):
        return Status(State.FAILED, phase, text)
    if isinstance(error, OSError) and (advice := remedy(error)):
        return Status(State.FAILED, phase, f"{type(error).__name__}: {text}: {advice}", "\n".join(trace))
    if torch.distributed.is_initialized() and not memory and any(pattern in text for pattern in PEER_LOST_PATTERNS):
        return Status(State.LOST, phase, f"another rank exited: {text}", "\n".join(trace))
    return Status(State.OOM if memory else State.FAILED, phase, f"{type(error).__name__}: {text}", "\n".join(trace))
