"""The same work for every scene of a root, in order, on all cores."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from bench.data.store import Store, open_store

T = TypeVar("T")
AHEAD = 3  # scenes a process, so that memory stays bounded when results are slow to take

_opened: list[Store] = []  # of a worker process


def each_scene(
    work: Callable[[Store, str], T],
    root: Path,
    views: int,
    scenes: Sequence[str],
    workers: int,
    console: Console,
    title: str,
) -> Iterator[tuple[str, T]]:
    """(scene, work(store, scene)), in the order of `scenes`. `work` is a function that a process can import."""
    found = _alone(work, root, views, scenes) if workers == 1 else _pooled(work, root, views, scenes, workers)
    yield from track(found, title, total=len(scenes), console=console, disable=not console.is_terminal, transient=True)


def _alone(work: Callable[[Store, str], T], root: Path, views: int, scenes: Sequence[str]) -> Iterator[tuple[str, T]]:
    store = open_store(root, progress=False, views=views)
    for scene in scenes:
        yield scene, work(store, scene)


def _pooled(
    work: Callable[[Store, str], T], root: Path, views: int, scenes: Sequence[str], workers: int
) -> Iterator[tuple[str, T]]:
    waiting: deque[tuple[str, Future[T]]] = deque()
    context = get_context("forkserver")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_open, initargs=(root, views)) as pool:
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


def _open(root: Path, views: int) -> None:
    _opened.append(open_store(root, progress=False, views=views))


def _work(work: Callable[[Store, str], T], scene: str) -> T:
    return work(_opened[-1], scene)
