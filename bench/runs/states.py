"""The states of a run, and what each means for scheduling. No torch."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """The state of a run. `queued` and `starting` are derived from a queue and never recorded in a run's folder."""

    PLANNED = "planned"
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    OOM = "oom"
    NAN = "nan"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    PREEMPTED = "preempted"
    NODE_FAIL = "node_fail"
    LOST = "lost"

    @property
    def is_active(self) -> bool:
        """A process or a queue will continue it."""
        return self in (State.QUEUED, State.STARTING, State.RUNNING)

    @property
    def is_terminal(self) -> bool:
        """It has ended, successfully or not."""
        return self is not State.PLANNED and not self.is_active

    @property
    def failed(self) -> bool:
        """It has ended without being done."""
        return self.is_terminal and self is not State.DONE

    @property
    def needs_retry(self) -> bool:
        """A failure that would probably repeat: resumed only with --retry. Other failures are resumed without it."""
        return self in (State.FAILED, State.OOM, State.NAN, State.TIMEOUT)

    @property
    def is_final(self) -> bool:
        """No queue changes this state; after a time limit, in contrast, a queue may resume the run."""
        return self is State.DONE or (self.needs_retry and self is not State.TIMEOUT)

    @property
    def was_stopped(self) -> bool:
        """It was stopped by a signal, and has written a checkpoint."""
        return self in (State.CANCELLED, State.TIMEOUT, State.PREEMPTED)


RETRYABLE = tuple(state for state in State if state.needs_retry)
