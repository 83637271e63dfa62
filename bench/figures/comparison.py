"""A sweep's summary: a row a run, a panel a quantity; baselines as lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from bench.common.labels import mathtext
from bench.figures import style
from bench.figures.series import Series, of_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ORACLE = "#8A8A8A"
PLATE = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}  # behind numbers, over lines


@dataclass(frozen=True)
class Panel:
    """`values`: label → one number a seed; `baselines`: (label, value, is oracle)."""

    title: str
    better: str  # "higher", "lower" or "none"
    values: Mapping[str, Sequence[float]]
    baselines: Sequence[tuple[str, float, bool]] = field(default_factory=tuple)
    decimals: int = 2


def draw(panels: Sequence[Panel], labels: Sequence[str], series: Mapping[str, Series] | None = None) -> Figure:
    """Labels from top to bottom, in the sweep's order; `series`: their colors, by default one for each."""
    import matplotlib.pyplot as plt

    names = [style.wrap(label) for label in labels]
    lines = max((name.count("\n") for name in names), default=0) + 1
    height = max(0.24, 0.13 * lines) * len(labels) + 1.05
    figure, grid = plt.subplots(1, len(panels), figsize=(style.WIDTH, height), sharey=True, squeeze=False,
                                layout="constrained")  # fmt: skip
    colors = {label: one.color for label, one in (series or of_labels(labels)).items()}
    for axes, panel in zip(grid[0], panels, strict=True):
        _panel(axes, panel, labels, colors)
    grid[0][0].set_yticks(range(len(labels)), names)
    grid[0][0].set_ylim(len(labels) - 0.4, -0.6)
    handles = dict(zip(*reversed(grid[0][0].get_legend_handles_labels()), strict=True))
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=7)
    return figure


def _panel(axes: Axes, panel: Panel, labels: Sequence[str], colors: Mapping[str, str]) -> None:
    for i, (name, value, oracle) in enumerate(panel.baselines):
        dash = ((0, (1, 1)), (0, (4, 2)), (0, (4, 1, 1, 1)), "-")[i % 4]
        axes.axvline(
            value, color=ORACLE if oracle else style.INK, linewidth=0.8, linestyle=dash, label=mathtext(name), zorder=1
        )
    for row, label in enumerate(labels):
        values = [v for v in panel.values.get(label, ()) if np.isfinite(v)]
        if not values:
            continue
        mean = float(np.mean(values))
        if len(values) > 1:
            axes.plot([min(values), max(values)], [row, row], color=colors[label], linewidth=1.2, zorder=2)
        axes.plot([mean], [row], marker="o", markersize=4.5, color=colors[label], zorder=3)
        axes.annotate(f"{mean:.{panel.decimals}f}", (mean, row), xytext=(0, 4.5), textcoords="offset points",
                      ha="center", fontsize=6, color=style.FAINT, zorder=2, bbox=PLATE)  # fmt: skip
    arrow = {"higher": " ↑", "lower": " ↓"}.get(panel.better, "")
    axes.set_title(panel.title + arrow, fontsize=8)
    axes.tick_params(left=False)
    axes.grid(axis="x", visible=False)
    axes.margins(x=0.22)
    axes.locator_params(axis="x", nbins=4)
