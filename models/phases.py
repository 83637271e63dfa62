"""The phases of a training step, named where they begin and end: ranges in profilers' traces, timed on request.

Without a recorder a phase is a `torch.profiler.record_function`, and nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from torch.profiler import record_function

from models.tensors import tensors_of


class Recorder(ABC):
    """What follows the phases of some steps."""

    @abstractmethod
    def enter(self, name: str) -> None:
        """A phase begins, perhaps inside of another."""

    @abstractmethod
    def leave(self) -> None:
        """The innermost phase ends."""

    @abstractmethod
    def reach_backward(self, name: str) -> None:
        """The backward pass reaches what the phase computed."""


_recorder: Recorder | None = None


def phase(name: str) -> AbstractContextManager[object]:
    """A block of a step that belongs to `name`, or to a phase inside of it."""
    return record_function(name) if _recorder is None else _recorded(name, _recorder)


def mark_backward(name: str, value: object) -> None:
    """Of what a phase computed: its backward pass begins when a gradient of `value` is complete."""
    if _recorder is not None:
        reached = partial(_reach, _recorder, name)
        for tensor in tensors_of(value):
            if tensor.requires_grad:
                tensor.register_hook(reached)  # type: ignore[no-untyped-call]


@contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Let `recorder` follow the steps of a block."""
    global _recorder
    _recorder = recorder
    try:
        yield
    finally:
        _recorder = None


@contextmanager
def _recorded(name: str, recorder: Recorder) -> Iterator[None]:
    with record_function(name):
        recorder.enter(name)
        try:
            yield
        finally:
            recorder.leave()


def _reach(recorder: Recorder, name: str, _gradient: object) -> None:
    recorder.reach_backward(name)
