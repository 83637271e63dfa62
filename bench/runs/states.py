"""The states of a run, and what each means for scheduling. No torch."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """How a run stands. `queued` and `starting` are derived from a queue and never recorded in a run's folder."""

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
        """A process or a queue will go on with it."""
        return self in (State.QUEUED, State.STARTING, State.RUNNING)

    @property
    def is_terminal(self) -> bool:
        """It has been run and has ended, well or badly."""
        return self is not State.PLANNED and not self.is_active

    @property
    def failed(self) -> bool:
        """It has ended, and not with all that was asked for."""
        return self.is_terminal and self is not State.DONE

    @property
    def needs_retry(self) -> bool:
        """A bad end that would come again: run again only with --retry. Other bad ends are resumed without it."""
        return self in (State.FAILED, State.OOM, State.NAN, State.TIMEOUT)

    @property
    def is_final(self) -> bool:
        """An end that no queue changes: after a time limit, too, a queue may resume a run."""
        return self is State.DONE or (self.needs_retry and self is not State.TIMEOUT)

    @property
    def was_stopped(self) -> bool:
        """It was asked to stop, and has written a checkpoint."""
        return self in (State.CANCELLED, State.TIMEOUT, State.PREEMPTED)


RETRYABLE = tuple(state for state in State if state.needs_retry)
