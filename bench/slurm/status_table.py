"""The states of a sweep's runs as a table, once or until every run has ended."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from bench.runs.states import State
from bench.slurm.run_state import RunState, SweepState, query_sweep

COLORS = {State.DONE: "green", State.RUNNING: "cyan", State.STARTING: "cyan", State.QUEUED: "yellow",
           State.PLANNED: "bright_black"}  # fmt: skip


TRACE_LINES = 6


LINE_EVERY_S = 60.0  # where there is no terminal


def follow(sweep: Path, results: Path, every_s: float, console: Console) -> SweepState:
    """Show it until nothing more happens by itself; on a terminal in place, elsewhere now and then."""
    found, spoken = query_sweep(sweep, results), time.monotonic()
    with Live(console=console, auto_refresh=False) if console.is_terminal else _Plain(console) as view:
        view.update(render_status(found), refresh=True)
        while not all(run.is_terminal for run in found.runs):
            time.sleep(every_s)
            found = query_sweep(sweep, results)
            if (
                console.is_terminal
                or time.monotonic() - spoken > LINE_EVERY_S
                or all(run.is_terminal for run in found.runs)
            ):
                view.update(render_status(found), refresh=True)
                spoken = time.monotonic()
    return found


class _Plain:
    """Stands in for rich's Live where lines cannot be taken back."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def __enter__(self) -> _Plain:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, what: Group, *, refresh: bool) -> None:
        self.console.print(what)


def render_status(sweep: SweepState) -> Group:
    """The table, then what went wrong, each cause once."""
    table = Table(caption=_caption(sweep), caption_justify="left")
    table.add_column("run", overflow="fold")
    table.add_column("state", no_wrap=True)
    for name in ("step", "loss", "steps/s", "left"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("node", "job"):
        table.add_column(name, no_wrap=True)
    table.add_column("restarts", justify="right")
    for run in sweep.runs:
        state = run.phase if run.state is State.RUNNING and run.phase not in ("", "train") else run.state
        table.add_row(
            escape(run.label),
            Text(state, style=COLORS.get(run.state, "red")),
            f"{run.step}/{run.steps}",
            "" if run.loss is None else f"{run.loss:.4f}",
            "" if run.steps_per_s is None else f"{run.steps_per_s:.3g}",
            "" if run.remaining_s is None else str(timedelta(seconds=round(run.remaining_s))),
            run.node if run.state in (State.RUNNING, State.STARTING) else "",
            run.job,
            str(run.restarts or ""),
        )
    return Group(table, *_failures(sweep.runs), *_waiting(sweep.runs))


def signature(run: RunState) -> str:
    """What failures have in common: state, phase and message, without numbers and addresses."""
    message = run.message.splitlines()[0] if run.message else ""
    return f"{run.state} in {run.phase}: " + re.sub(r"0x[0-9a-f]+|[\d.,]*\d", "N", message)


def _caption(sweep: SweepState) -> str:
    counts: dict[State, int] = {}
    for run in sweep.runs:
        counts[run.state] = counts.get(run.state, 0) + 1
    told = ", ".join(f"{count} {state}" for state, count in counts.items())
    return told if sweep.answered else f"{told}; SLURM does not answer: queued runs are shown as their files say"


def _failures(runs: Sequence[RunState]) -> list[Text]:
    """Each kind of failure once, with its runs, the trace's last lines and a log."""
    groups: dict[str, list[RunState]] = {}
    for run in runs:
        if run.state.failed:
            groups.setdefault(signature(run), []).append(run)
    told = []
    for found in groups.values():
        first = found[0]
        phase = f" in {first.phase}" if first.phase else ""
        text = Text(f"\n{len(found)} × {first.state}{phase}: {first.message}\n", style="red")
        text.append(f"  {'; '.join(run.label for run in found)}\n", style="default")
        for line in first.trace.splitlines()[-TRACE_LINES:]:
            text.append(f"    {line}\n", style="bright_black")
        text.append(f"  log: {first.log}\n" if first.log else "", style="default")
        again = f"--retry {first.state} tries again" if first.state.needs_retry else "goes on when submitted again"
        text.append(f"  {again}", style="default")
        told.append(text)
    return told


def _waiting(runs: Sequence[RunState]) -> list[Text]:
    """Why runs wait, each reason once."""
    reasons: dict[str, list[str]] = {}
    for run in runs:
        if run.state in (State.QUEUED, State.PLANNED, State.STARTING) and run.message:
            reasons.setdefault(run.message, []).append(run.label)
    return [Text(f"{'; '.join(labels)}: {reason}", style="yellow") for reason, labels in reasons.items()]
