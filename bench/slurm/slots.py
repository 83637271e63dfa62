"""Runs queued on one workstation: as many at once as array_parallelism says, each with GPUs of its own.

A slot is a lock on a file, which the system gives back whatever happens to its holder.
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
    """Wait for a free slot of `count`; its GPUs become the visible ones. Only a job's first process holds the lock."""
    folder.mkdir(parents=True, exist_ok=True)
    told = folder / f"{job}.json"
    with contextlib.ExitStack() as held:
        number = _lock(folder, count, held) if first else _told(told)
        if first:
            write_json(told, {"slot": number})
        if gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(str(i) for i in range(number * gpus, (number + 1) * gpus))
        yield number
        if first:
            told.unlink(missing_ok=True)


def _lock(folder: Path, count: int, held: contextlib.ExitStack) -> int:
    while True:
        for number in range(count):
            file = (folder / f"{number}.lock").open("a")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
            else:
                held.enter_context(file)
                return number
        time.sleep(POLL_S)


def _told(path: Path) -> int:
    while not path.is_file():
        time.sleep(POLL_S)
    return int(read_json(path)["slot"])
