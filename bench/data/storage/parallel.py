"""The same work for every scene of a root, in order, on several cores."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

from rich.console import Console

from bench.common.console import track
from bench.data.cache import PROCESSES
from bench.data.storage.store import Store

T = TypeVar("T")
AHEAD = 3  # scenes a process, so that memory stays bounded when results are slow to take

_stores: list[Store] = []  # of a worker process


def each_scene(
    work: Callable[[Store, str], T],
    opener: Callable[[], Store],
    scenes: Sequence[str],
    workers: int,
    console: Console,
    title: str,
) -> Iterator[tuple[str, T]]:
    """(scene, work(store, scene)), in the order of `scenes`, by `workers` processes. `work`, `opener`: picklable."""
    results = _in_process(work, opener, scenes) if workers == 1 else _pooled(work, opener, scenes, workers)
    yield from track(results, title, len(scenes), console)


def _in_process(
    work: Callable[[Store, str], T], opener: Callable[[], Store], scenes: Sequence[str]
) -> Iterator[tuple[str, T]]:
    store = opener()
    for scene in scenes:
        yield scene, work(store, scene)


def _pooled(
    work: Callable[[Store, str], T], opener: Callable[[], Store], scenes: Sequence[str], workers: int
) -> Iterator[tuple[str, T]]:
    waiting: deque[tuple[str, Future[T]]] = deque()
    context = get_context("forkserver")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_open, initargs=(opener, workers)) as pool:
        try:
            for scene in scenes:
                waiting.append((scene, pool.submit(_work, work, scene)))
                if len(waiting) >= AHEAD * workers:
                    first, future = waiting.popleft()
                    yield first, future.result()
            for scene, future in waiting:
                yield scene, future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _open(opener: Callable[[], Store], workers: int) -> None:
    os.environ[PROCESSES] = str(workers)
    _stores.append(opener())


def _work(work: Callable[[Store, str], T], scene: str) -> T:
    return work(_stores[-1], scene)
