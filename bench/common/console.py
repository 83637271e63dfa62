"""What commands print: lines, JSON, and the progress of long work.

Progress is a bar in a terminal; elsewhere (CI, logs, pipes) a plain line at least every ten seconds.
The lines come from a thread, so that a single slow item (a download) is reported, too. Work that ends within
FIRST_LINE_S prints nothing.
"""

from __future__ import annotations

import json
import sys
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
    """rich's shared console, on the stream for human-readable output; libraries use it, too."""
    rich.reconfigure(stderr=to_stderr)
    return rich.get_console()


def print_line(console: Console, text: str, style: str | None = None) -> None:
    """Print text as it is: no markup, no highlighting, no line breaks that it does not have."""
    console.print(escape(text), style=style, highlight=False, soft_wrap=True)


def print_json(content: object) -> None:
    """On the standard output, indented; in ASCII where the output cannot encode all characters."""
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
    print(json.dumps(content, indent=1, ensure_ascii=not utf8))


def track(
    items: Iterable[T], title: str, total: int | None = None, console: Console | None = None, visible: bool = True
) -> Iterator[T]:
    """Iterate over the items while `progress` shows how many of `total` (None: unknown) are done."""
    with progress(title, total, console, visible) as advance:
        for item in items:
            yield item
            advance(1)


def progress(
    title: str, total: int | None = None, console: Console | None = None, visible: bool = True
) -> AbstractContextManager[Advance]:
    """Shows progress while the context is open; the context's value adds to the number of items done.

    `console` is rich's shared one by default; nothing is shown without `visible`, or with a total of 0.
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
    parts = [f"{done:,}/{total:,}" if total else f"{done:,} done" if done else ""]
    parts.append(f"{timedelta(seconds=round(elapsed_s))} elapsed")
    if total and 0 < done < total:
        parts.append(f"{timedelta(seconds=round(elapsed_s * (total - done) / done))} remaining")
    return ", ".join(filter(None, parts))
