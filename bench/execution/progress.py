"""Progress of a sweep, read from the run folders: live bars in a terminal, elsewhere a line every ten seconds."""

from __future__ import annotations

import contextlib
import json
import shutil
import statistics
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from bench.common.console import LINE_EVERY_S, print_line
from bench.common.files import atomic_write
from bench.execution.launcher import Task
from bench.runs.folder import Status
from bench.runs.states import State

TAIL = 8192  # bytes
PREVIEW, PREVIEW_EVERY_S = "preview.png", 2.0  # in a run's folder: written by bench.training while it trains
GREY, RED = "bright_black", "red"


@dataclass(frozen=True)
class RunProgress:
    """A run's current step, of how many; its last loss; the remaining training time; its stage."""

    step: int
    steps: int
    loss: float | None
    remaining_s: float | None  # of training
    phase: str

    def __str__(self) -> str:
        if self.phase != "train" or self.loss is None:
            return self.phase or ("starting" if self.loss is None else "finishing")
        remaining = "" if self.remaining_s is None else f"  {timedelta(seconds=round(self.remaining_s))} remaining"
        return f"step {self.step}/{self.steps}  loss {self.loss:.4f}{remaining}"


def run_progress(task: Task) -> RunProgress:
    """From the run's status and its last metrics."""
    records, steps = last_records(task.folder.path / "metrics.jsonl"), int(task.spec["train"]["steps"])
    step = int(records[-1]["step"]) if records else 0
    per_step = median_step_ms(records)
    remaining_s = per_step / 1000 * (steps - step) if per_step else None
    loss = records[-1].get("loss") if records else None
    return RunProgress(step, steps, loss, remaining_s, task.folder.status().phase)


def median_step_ms(records: Sequence[Mapping[str, Any]]) -> float | None:
    """None without any timed record."""
    times = [record["step_time_ms"] for record in records if "step_time_ms" in record]
    return statistics.median(times) if times else None


def last_records(path: Path) -> list[dict[str, Any]]:
    """The complete records in the last TAIL bytes of a JSON-lines file."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - TAIL))
        lines = file.read().splitlines()
    records = []
    for line in lines[1:] if size > TAIL else lines:
        try:
            records.append(json.loads(line))
        except ValueError:  # incomplete, or just being written
            continue
    return records


class SweepProgress:
    """Prints the launcher's callbacks; a context while the sweep runs.

    `total`: number of pending runs. The newest preview.png of the running runs is copied to `folder`, if given.
    """

    def __init__(self, console: Console, total: int, folder: Path | None = None) -> None:
        self.console, self.total, self.done = console, total, 0
        columns = TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[progress]}")
        self.bars = Progress(*columns, console=console, transient=True)
        self.bar_of: dict[str, TaskID] = {}
        self.line_times: dict[str, float] = {}  # of the last line about a run, by its id, or its label if elsewhere
        self.preview = Preview(folder) if folder else None
        self.elsewhere: Mapping[str, str] = {}

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.bars.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.bars.stop()

    def update(self, running: Collection[Task], elsewhere: Mapping[str, str]) -> None:
        for label, holder in elsewhere.items():
            if label not in self.elsewhere or (not self.console.is_terminal and self._line_due(label)):
                print_line(self.console, f"{label}: locked by {holder}; waiting", GREY)
                self.line_times[label] = time.monotonic()
        self.elsewhere = elsewhere
        for task in running:
            if self.console.is_terminal:
                self._update_bar(task)
            else:
                self._log_state_change(task)
        if self.preview and (path := self.preview.update(running)):
            print_line(self.console, f"preview: {path.resolve()} (updated while the runs train)")

    def finished(self, task: Task, status: Status) -> None:
        """One line: done, or the reason of a failure and the path of its log."""
        self.done += status.state is State.DONE
        if task.id in self.bar_of:
            self.bars.remove_task(self.bar_of.pop(task.id))
        if status.state is State.DONE:
            print_line(self.console, f"{task.label}: done ({self.done} of {self.total})")
            return
        reason = status.message.splitlines()[0] if status.message else ""
        phase = f" in {status.phase}" if status.phase else ""
        log = task.folder.path / "log.txt"
        log_hint = f" (log: {log})" if log.is_file() else ""
        print_line(self.console, f"{task.label}: {status.state}{phase}: {reason}{log_hint}", RED)

    def _update_bar(self, task: Task) -> None:
        progress = run_progress(task)
        if task.id not in self.bar_of:
            self.bar_of[task.id] = self.bars.add_task(escape(task.label), total=progress.steps, progress="")
        self.bars.update(self.bar_of[task.id], completed=progress.step, progress=escape(str(progress)))

    def _log_state_change(self, task: Task) -> None:
        if task.id not in self.line_times:
            print_line(self.console, f"{task.label}: started ({task.id})")
        elif self._line_due(task.id):
            print_line(self.console, f"{task.label}: {run_progress(task)}")
        else:
            return
        self.line_times[task.id] = time.monotonic()

    def _line_due(self, key: str) -> bool:
        return time.monotonic() - self.line_times[key] >= LINE_EVERY_S


class Preview:
    """Copies the newest preview.png of the running runs to a sweep's folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / PREVIEW
        self.copied_ns, self.next_check, self.announced = 0, 0.0, False

    def update(self, running: Collection[Task]) -> Path | None:
        """Copy a newer preview, at most every PREVIEW_EVERY_S; the copy's path the first time, else None."""
        if time.monotonic() < self.next_check:
            return None
        self.next_check = time.monotonic() + PREVIEW_EVERY_S
        times: dict[Path, int] = {}
        for task in running:
            with contextlib.suppress(OSError):  # none yet
                times[task.folder.path / PREVIEW] = (task.folder.path / PREVIEW).stat().st_mtime_ns
        if not times or max(times.values()) <= self.copied_ns:
            return None
        newest = max(times, key=times.__getitem__)
        self.copied_ns = times[newest]
        atomic_write(self.path, partial(shutil.copyfile, newest))
        first, self.announced = not self.announced, True
        return self.path if first else None
