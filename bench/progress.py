"""What a sweep is doing, live on a terminal, as plain lines elsewhere; read from the runs' metrics.jsonl."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from bench.record import RunFolder

EVERY = 10.0  # seconds between plain lines
TAIL = 4096  # bytes


class SweepProgress:
    """Call `update` as often as you like with the runs at work; use as a context."""

    def __init__(self, console: Console, runs: Path, steps: dict[str, int]) -> None:
        self.console, self.runs, self.steps = console, runs, steps
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[now]}"),
        )
        self.bars = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
        self.tasks: dict[str, TaskID] = {}
        self.spoken = time.monotonic()

    def __enter__(self) -> SweepProgress:
        if self.console.is_terminal:
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self.bars.stop()

    def update(self, working: dict[str, str]) -> None:
        """`working`: id → label of the runs at work."""
        if not self.console.is_terminal:
            if time.monotonic() - self.spoken > EVERY:
                self.spoken = time.monotonic()
                for run_id, label in working.items():
                    self.console.print(f"  {label}: {self._now(run_id)[1]}", highlight=False)
            return
        for run_id in self.tasks.keys() - working.keys():
            self.bars.remove_task(self.tasks.pop(run_id))
        for run_id, label in working.items():
            step, now = self._now(run_id)
            if run_id not in self.tasks:
                self.tasks[run_id] = self.bars.add_task(label, total=self.steps[run_id], now="")
            self.bars.update(self.tasks[run_id], completed=step, now=now)

    def _now(self, run_id: str) -> tuple[int, str]:
        """Its last step, and a phrase."""
        folder = RunFolder(self.runs / run_id)
        record, phase = last_record(folder.path / "metrics.jsonl"), folder.status().phase
        step = int(record.get("step", 0))
        if phase != "train" or not record:
            return step, phase or "starting"
        return step, f"step {step} of {self.steps[run_id]}, loss {record['loss']:.4f}, {record['step_time_ms']:.0f} ms"


def last_record(path: Path) -> dict[str, Any]:
    """The last whole line of a JSON-lines file; empty if there is none."""
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
        lines = file.read().decode(errors="replace").splitlines()
    for line in reversed(lines):
        try:
            record: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            continue
        return record
    return {}
