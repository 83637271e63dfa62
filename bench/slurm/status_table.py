"""The states of a sweep's runs as a table, once or until no run is active."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from bench.common.labels import terminal
from bench.runs.states import State
from bench.slurm.run_state import RunState, SweepState, query_sweep

COLORS = {State.DONE: "green", State.RUNNING: "cyan", State.STARTING: "cyan", State.QUEUED: "yellow",
          State.PLANNED: "bright_black"}  # fmt: skip
TRACE_LINES = 6
TABLE_EVERY_S = 60.0  # without a terminal


def follow(sweep: Path, results: Path, every_s: float, console: Console) -> SweepState:
    """Print the table until no run is active: updated in place on a terminal, else every TABLE_EVERY_S seconds."""
    state, printed = query_sweep(sweep, results), time.monotonic()
    with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
        show = partial(live.update, refresh=True) if live else console.print
        show(render_status(state))
        while not all(run.is_terminal for run in state.runs):
            time.sleep(every_s)
            state = query_sweep(sweep, results)
            over = all(run.is_terminal for run in state.runs)
            if console.is_terminal or over or time.monotonic() - printed > TABLE_EVERY_S:
                show(render_status(state))
                printed = time.monotonic()
    return state


def render_status(sweep: SweepState) -> Group:
    """The table, then each cause of failure and each reason for waiting, once."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, caption=_caption(sweep), caption_justify="left")
    table.add_column("run", overflow="fold")
    table.add_column("state", no_wrap=True)
    for name in ("step", "loss", "steps/s", "remaining"):
        table.add_column(name, justify="right", no_wrap=True)
    on_cluster = any(run.job for run in sweep.runs)
    for name in ("node", "job", "restarts") if on_cluster else ("node",):
        table.add_column(name, no_wrap=True)
    for run in sweep.runs:
        state = run.phase if run.state is State.RUNNING and run.phase not in ("", "train") else run.state
        table.add_row(
            escape(terminal(run.label)),
            Text(state, style=COLORS.get(run.state, "red")),
            f"{run.step}/{run.steps}",
            "" if run.loss is None else f"{run.loss:.4f}",
            "" if run.steps_per_s is None else f"{run.steps_per_s:.3g}",
            "" if run.remaining_s is None else str(timedelta(seconds=round(run.remaining_s))),
            run.node if run.state in (State.RUNNING, State.STARTING) else "",
            *([run.job, str(run.restarts or "")] if on_cluster else []),
        )
    return Group(table, *_failures(sweep.runs), *_waiting_reasons(sweep.runs))


def signature(run: RunState) -> str:
    """State, phase and message without numbers and addresses: equal for failures of one cause."""
    message = run.message.splitlines()[0] if run.message else ""
    return f"{run.state} in {run.phase}: " + re.sub(r"0x[0-9a-f]+|[\d.,]*\d", "N", message)


def _caption(sweep: SweepState) -> str:
    counts: dict[State, int] = {}
    for run in sweep.runs:
        counts[run.state] = counts.get(run.state, 0) + 1
    text = ", ".join(f"{count} {state}" for state, count in counts.items())
    return text if sweep.reachable else f"{text}; SLURM does not answer: states of queued runs are those on file"


def _failures(runs: Sequence[RunState]) -> list[Text]:
    """Each cause once, with its runs, the last lines of the trace and a log."""
    groups: dict[str, list[RunState]] = {}
    for run in runs:
        if run.state.failed:
            groups.setdefault(signature(run), []).append(run)
    texts = []
    for group in groups.values():
        first = group[0]
        phase = f" in {first.phase}" if first.phase else ""
        text = Text(f"\n{len(group)} × {first.state}{phase}: {first.message}\n", style="red")
        text.append(f"  {'; '.join(terminal(run.label) for run in group)}\n", style="default")
        for line in first.trace.splitlines()[-TRACE_LINES:]:
            text.append(f"    {line}\n", style="bright_black")
        text.append(f"  log: {first.log}\n" if first.log else "", style="default")
        hint = f"pass --retry {first.state} to retry" if first.state.needs_retry else "resumes when resubmitted"
        text.append(f"  {hint}", style="default")
        texts.append(text)
    return texts


def _waiting_reasons(runs: Sequence[RunState]) -> list[Text]:
    """Each reason once, with its runs."""
    reasons: dict[str, list[str]] = {}
    for run in runs:
        if run.state in (State.QUEUED, State.PLANNED, State.STARTING) and run.message:
            reasons.setdefault(run.message, []).append(terminal(run.label))
    return [Text(f"{'; '.join(labels)}: {reason}", style="yellow") for reason, labels in reasons.items()]
