"""The figures of traced runs: time and memory by part, memory during a step, the longest operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from bench.analysis.sweep_results import SweepResults

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("time_by_part", "memory_by_part", "memory_timeline", "top_operators")
PANELS = 12  # the first settings of a large sweep, where each has a panel
MIB = 2**20
Figures = Iterator[tuple[str, "Callable[[], Figure]"]]  # file name, function that draws it


def traces(sweep: SweepResults) -> dict[str, dict[str, Any]]:
    """label → the trace of a setting's first traced seed."""
    first: dict[str, dict[str, Any]] = {}
    for label, runs in sweep.groups().items():
        of_seeds = [trace for run in runs for trace in run.folder.traces().values()]
        first |= {label: of_seeds[0]} if of_seeds else {}
    return first


def time_by_part(sweep: SweepResults) -> Figures:
    from bench.figures import stacked_bars

    times = {label: trace["parts_ms"] for label, trace in traces(sweep).items() if "other" in trace["parts_ms"]}
    if times:
        caption = f"ms of a training step ({_devices(sweep)})"
        yield from _twice("time_by_part", partial(stacked_bars.draw, times, caption, "ms"))


def memory_by_part(sweep: SweepResults) -> Figures:
    from bench.figures import stacked_bars

    held = {
        label: {part: size / MIB for part, size in trace["memory"]["at_peak_bytes"].items()}
        for label, trace in traces(sweep).items()
        if "memory" in trace
    }
    if held:
        caption = f"MiB that tensors hold at the peak of a step, by the part that allocated them ({_devices(sweep)})"
        yield from _twice("memory_by_part", partial(stacked_bars.draw, held, caption, "MiB"))


def memory_timeline(sweep: SweepResults) -> Figures:
    from bench.figures.memory_timeline import Timeline, draw

    memory = {label: trace["memory"] for label, trace in traces(sweep).items() if "memory" in trace}
    lines = {
        label: Timeline(of["time_ms"], {p: [size / MIB for size in sizes] for p, sizes in of["held_bytes"].items()})
        for label, of in islice(memory.items(), PANELS)
    }
    if lines:
        caption = f"% of a training step, under the profiler ({_devices(sweep)})"
        yield from _twice("memory_timeline", partial(draw, lines, caption))


def top_operators(sweep: SweepResults) -> Figures:
    from bench.figures import top_operators as figure

    operators = {
        label: [(entry["name"], entry["share"]) for entry in trace["operators"]]
        for label, trace in traces(sweep).items()
        if trace.get("operators")
    }
    if operators:
        caption = f"% of the time of all operators of a training step, under the profiler ({_devices(sweep)})"
        shown = dict(islice(operators.items(), PANELS))
        yield from _twice("top_operators", partial(figure.draw, shown, caption))


def _twice(name: str, draw: Callable[[], Figure]) -> Figures:
    for suffix in ("png", "svg"):
        yield f"{name}.{suffix}", draw


def _devices(sweep: SweepResults) -> str:
    devices = (
        f"{t['device']}, {t['threads']} thread{'s' * (t['threads'] > 1)}, batch {t['batch']}, weights {t['weights']}"
        for t in traces(sweep).values()
    )
    return "; ".join(dict.fromkeys(devices))
