"""Progress of long work: a bar in a terminal; elsewhere (CI, logs, pipes) a plain line at least every ten seconds.

The lines come from a thread, so that a single slow item (a download) is not silent either. Work that ends within
FIRST_LINE_S prints nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from threading import Event, Thread
from typing import TypeVar

import rich
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

FIRST_LINE_S = 1.0
LINE_EVERY_S = 10.0

Advance = Callable[[int], None]  # adds to the number of items that are done

T = TypeVar("T")


def command_console(to_stderr: bool) -> Console:
    """rich's shared console, on the stream to which a command prints what is for people; libraries use it, too."""
    rich.reconfigure(stderr=to_stderr)
    return rich.get_console()


def print_line(console: Console, text: str, style: str | None = None) -> None:
    """Print text as it is: no markup, no highlighting, no line breaks that it does not have."""
    console.print(escape(text), style=style, highlight=False, soft_wrap=True)


def track(
    items: Iterable[T], title: str, total: int | None = None, console: Console | None = None, visible: bool = True
) -> Iterator[T]:
    """The items, while `progress` shows how many of `total` (None: unknown) the caller has finished."""
    with progress(title, total, console, visible) as advance:
        for item in items:
            yield item
            advance(1)


def progress(
    title: str, total: int | None = None, console: Console | None = None, visible: bool = True
) -> AbstractContextManager[Advance]:
    """Shows work while the context is open; call what it gives with the number of items just done.

    `console` is rich's shared one by default; nothing is shown without `visible`, or when there is nothing to do.
    """
    console = console or rich.get_console()
    if not visible or total == 0:
        return _hidden()
    return _bar(title, total, console) if console.is_terminal else _lines(title, total, console)


@contextmanager
def _hidden() -> Iterator[Advance]:
    yield lambda _count: None


@contextmanager
def _bar(title: str, total: int | None, console: Console) -> Iterator[Advance]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(escape(title), total=total)
        yield lambda count: bar.advance(task, count)


@contextmanager
def _lines(title: str, total: int | None, console: Console) -> Iterator[Advance]:
    started, done, lines, finished = time.monotonic(), 0, 0, Event()

    def advance(count: int) -> None:
        nonlocal done
        done += count

    def print_state() -> None:
        print_line(console, f"{title}: {_state(done, total, time.monotonic() - started)}")

    def print_lines() -> None:
        nonlocal lines
        while not finished.wait(LINE_EVERY_S if lines else FIRST_LINE_S):
            try:
                print_state()
            except (OSError, ValueError):  # the output was closed: the main thread fails at its own next line
                return
            lines += 1

    printer = Thread(target=print_lines, daemon=True)
    printer.start()
    try:
        yield advance
    finally:
        finished.set()
        printer.join()
    if lines:
        print_state()


def _state(done: int, total: int | None, elapsed_s: float) -> str:
    """12/48, 0:00:20 elapsed, 0:01:00 remaining."""
    words = [f"{done:,}/{total:,}" if total else f"{done:,} done" if done else ""]
    words.append(f"{_duration(elapsed_s)} elapsed")
    if total and 0 < done < total:
        words.append(f"{_duration(elapsed_s * (total - done) / done)} remaining")
    return ", ".join(filter(None, words))


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
