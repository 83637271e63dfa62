"""A search's runs over two of its objectives: all of them, the front that nothing beats, and the spec's own by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.common.labels import mathtext
from bench.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = ("*", "D", "s", "^", "v", "P")
FRONT = style.PALETTE[0]


@dataclass(frozen=True)
class Point:
    """A run. `text` stands beside a member of the front; `name` is of the spec's own runs, for the legend."""

    values: Mapping[str, float]
    on_front: bool
    text: str = ""
    name: str = ""


@dataclass(frozen=True)
class Axis:
    """An objective. Counts are drawn on a logarithmic axis, in millions."""

    name: str
    title: str
    better: str
    count: bool = False


def draw(points: Sequence[Point], axes: Sequence[Axis], caption: str) -> Figure:
    """The first objective upwards, a panel for each of the others; with two, the front is a line."""
    import matplotlib.pyplot as plt

    width = style.WIDTH * (0.62 if len(axes) == 2 else 1)
    figure, grid = plt.subplots(1, len(axes) - 1, figsize=(width, 3.1), squeeze=False, sharey=True,
                                layout="constrained")  # fmt: skip
    for panel, across in zip(grid[0], axes[1:], strict=True):
        _panel(panel, points, across, axes[0], line=len(axes) == 2)
    grid[0][0].set_ylabel(_title(axes[0]))
    handles = dict(zip(*reversed(grid[0][0].get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, fontsize=7)
    grid[0][0].set_title(caption, loc="left", fontsize=7, color=style.FAINT)
    return figure


def _panel(panel: Axes, points: Sequence[Point], across: Axis, up: Axis, line: bool) -> None:
    def place(point: Point) -> tuple[float, float]:
        return point.values[across.name] / (1e6 if across.count else 1), point.values[up.name]

    others = [place(point) for point in points if not point.on_front and not point.name]
    front = sorted(place(point) for point in points if point.on_front)
    trials = [place(point) for point in points if point.on_front and not point.name]
    if others:
        panel.plot(*zip(*others, strict=True), "o", color="#A9A9A9", markersize=3.6, linestyle="", label="trial")
    if front and line:
        step = "steps-post" if across.better == "lower" else "steps-pre"
        panel.plot(*zip(*front, strict=True), color=FRONT, linewidth=1.0, drawstyle=step, zorder=1.5)
    if trials:
        panel.plot(
            *zip(*trials, strict=True), "o", color=FRONT, markersize=5, linestyle="", label="Pareto front, by trial"
        )
    for i, point in enumerate(point for point in points if point.name):
        marker = MARKERS[i % len(MARKERS)]
        panel.plot(*place(point), marker, color=style.PALETTE[1 + i % 7], markersize=11 if marker == "*" else 7,
                   markeredgecolor=FRONT if point.on_front else "white", markeredgewidth=1.1 if point.on_front else 0.5,
                   linestyle="", label=mathtext(point.name), zorder=3)  # fmt: skip
    for point in points:
        if point.text:
            panel.annotate(mathtext(point.text), place(point), xytext=(4, 4), textcoords="offset points", fontsize=6,
                           color=style.INK, zorder=4)  # fmt: skip
    if across.count:
        _log(panel)
    panel.set_xlabel(_title(across))
    panel.margins(x=0.09, y=0.1)


def _log(panel: Axes) -> None:
    """Plain numbers, whatever decades the axis spans."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panel.xaxis.set_minor_formatter(NullFormatter())


def _title(axis: Axis) -> str:
    unit = "Parameters [M]" if axis.count else axis.title
    return unit + (" ↑" if axis.better == "higher" else " ↓")
