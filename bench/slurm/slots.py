"""Slots of one workstation: array_parallelism runs at once, each with its own GPUs.

A slot is a file lock, which the kernel releases when its holder ends, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from bench.common.json_files import read_json, write_json

POLL_S = 0.5


@contextlib.contextmanager
def acquire_slot(folder: Path, count: int, gpus: int, job: str, first: bool) -> Iterator[int]:
    """Wait for one of `count` slots and make its GPUs the visible ones. Only the first process of a job locks it."""
    folder.mkdir(parents=True, exist_ok=True)
    slot_file = folder / f"{job}.json"
    with contextlib.ExitStack() as locks:
        number = _lock(folder, count, locks) if first else _read_slot(slot_file)
        if first:
            write_json(slot_file, {"slot": number})
        if gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(str(i) for i in range(number * gpus, (number + 1) * gpus))
        yield number
        if first:
            slot_file.unlink(missing_ok=True)


def _lock(folder: Path, count: int, locks: contextlib.ExitStack) -> int:
    while True:
        for number in range(count):
            file = (folder / f"{number}.lock").open("a")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
            else:
                locks.enter_context(file)
                return number
        time.sleep(POLL_S)


def _read_slot(path: Path) -> int:
    while not path.is_file():
        time.sleep(POLL_S)
    return int(read_json(path)["slot"])
