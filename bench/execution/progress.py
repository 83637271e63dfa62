"""What a sweep is doing: live bars on a terminal, plain lines now and then elsewhere; read from the run folders."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from bench.common.console import LINE_EVERY_S
from bench.execution.launcher import Task
from bench.runs.folder import Status
from bench.runs.states import State

TAIL = 8192  # bytes
GREY, RED = "bright_black", "red"


@dataclass(frozen=True)
class RunProgress:
    """How far a run is."""

    step: int
    steps: int
    loss: float | None
    remaining_s: float | None  # of training
    phase: str

    def __str__(self) -> str:
        if self.phase != "train" or self.loss is None:
            return self.phase or ("starting" if self.loss is None else "")
        left = "" if self.remaining_s is None else f"  {timedelta(seconds=round(self.remaining_s))} left"
        return f"step {self.step}/{self.steps}  loss {self.loss:.4f}{left}"


def run_progress(task: Task) -> RunProgress:
    """From its status and the end of its metrics."""
    records, steps = last_records(task.folder.path / "metrics.jsonl"), int(task.spec["train"]["steps"])
    step = int(records[-1]["step"]) if records else 0
    per_step = median_step_ms(records)
    left = per_step / 1000 * (steps - step) if per_step else None
    return RunProgress(step, steps, records[-1].get("loss") if records else None, left, task.folder.status().phase)


def median_step_ms(records: Sequence[Mapping[str, Any]]) -> float | None:
    """None if no record tells."""
    times = [record["step_time_ms"] for record in records if "step_time_ms" in record]
    return statistics.median(times) if times else None


def last_records(path: Path) -> list[dict[str, Any]]:
    """The whole lines at the end of a JSON-lines file."""
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
        except ValueError:  # torn, or just being written
            continue
    return records


class SweepProgress:
    """A bench.execution.launcher.Watcher that prints; a context while the sweep runs."""

    def __init__(self, console: Console, total: int) -> None:
        self.console, self.total, self.done = console, total, 0
        columns = TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[now]}")
        self.bars = Progress(*columns, console=console, transient=True)
        self.shown: dict[str, TaskID] = {}
        self.spoken: dict[str, float] = {}  # by a run's id, or the label of one that is waited for: when
        self.elsewhere: Mapping[str, str] = {}

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.bars.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.bars.stop()

    def update(self, working: Collection[Task], elsewhere: Mapping[str, str]) -> None:
        for label, who in elsewhere.items():
            if label not in self.elsewhere or (not self.console.is_terminal and self._line_due(label)):
                self._say(f"{label}: {who} works on it; waiting for that", GREY)
                self.spoken[label] = time.monotonic()
        self.elsewhere = elsewhere
        show = self._draw if self.console.is_terminal else self._speak
        for task in working:
            show(task)

    def finished(self, task: Task, status: Status) -> None:
        """One line; what went wrong, and where it is told at length."""
        self.done += status.state is State.DONE
        if task.id in self.shown:
            self.bars.remove_task(self.shown.pop(task.id))
        if status.state is State.DONE:
            self._say(f"{task.label}: done ({self.done} of {self.total})")
            return
        reason = status.message.splitlines()[0] if status.message else ""
        phase = f" in {status.phase}" if status.phase else ""
        log = task.folder.path / "log.txt"
        where = f" (log: {log})" if log.is_file() else ""
        self._say(f"{task.label}: {status.state}{phase}: {reason}{where}", RED)

    def _draw(self, task: Task) -> None:
        found = run_progress(task)
        if task.id not in self.shown:
            self.shown[task.id] = self.bars.add_task(escape(task.label), total=found.steps, run_progress="")
        self.bars.update(self.shown[task.id], completed=found.step, run_progress=str(found))

    def _speak(self, task: Task) -> None:
        if task.id not in self.spoken:
            self._say(f"{task.label}: started ({task.id})")
        elif self._line_due(task.id):
            self._say(f"{task.label}: {run_progress(task)}")
        else:
            return
        self.spoken[task.id] = time.monotonic()

    def _line_due(self, about: str) -> bool:
        return time.monotonic() - self.spoken[about] >= LINE_EVERY_S

    def _say(self, text: str, style: str | None = None) -> None:
        self.console.print(escape(text), style=style, highlight=False, soft_wrap=True)
