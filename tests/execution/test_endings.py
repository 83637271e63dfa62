"""What an exception says about a run: its state, and a message that names the cause."""

from __future__ import annotations

import errno

import pytest
import torch
from torch import distributed

from bench.common.errors import UserError
from bench.execution.endings import status_of_exception
from bench.runs.states import State
from bench.training.diagnostics import NonFinite

NO_HOST_MEMORY = "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"
ENDS: list[tuple[BaseException, State, str]] = [
    (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB"), "oom", "Tried to allocate 2.50"),
    (RuntimeError(NO_HOST_MEMORY), "oom", "can't allocate memory"),
    (MemoryError(), "oom", "MemoryError"),
    (OSError(errno.ENOSPC, "No space left on device"), "failed", "the disk is full"),
    (NonFinite("the loss is nan at step 7"), "nan", "step 7"),
    (UserError("data.root: there is no /data"), "failed", "data.root"),
    (RuntimeError("Connection reset by peer"), "failed", "RuntimeError: Connection reset"),
    (ZeroDivisionError("division by zero"), "failed", "ZeroDivisionError: division by zero"),
]


@pytest.mark.parametrize(("error", "state", "message"), ENDS, ids=lambda value: str(value)[:24])
def test_what_an_exception_says(error: BaseException, state: State, message: str) -> None:
    status = status_of_exception(error, "evaluate")
    assert (status.state, status.phase) == (state, "evaluate") and message in status.message, status


def test_a_lost_company_is_no_fault_of_the_one_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    status = status_of_exception(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer"), "train")
    assert status.state == "lost" and "another rank exited" in status.message
    assert status_of_exception(torch.cuda.OutOfMemoryError("CUDA out of memory in NCCL"), "train").state == "oom"
