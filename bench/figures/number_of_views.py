"""Quality, time and memory against the number of input views: a line a model, a panel a quantity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from bench.common.labels import mathtext
from bench.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = ("o", "s", "^", "D", "v", "P")
COLUMNS = 4  # panels in a row


@dataclass(frozen=True)
class Panel:
    """`values`: model → number of views → one number a seed. Of models evaluated with other numbers than they were
    trained with: `trained`, the one of each, and `baseline` (its label, number of views → value)."""

    title: str
    values: Mapping[str, Mapping[int, Sequence[float]]]
    trained: Mapping[str, int] = field(default_factory=dict)
    baseline: tuple[str, Mapping[int, float]] = ("", {})


def draw(panels: Sequence[Panel], colors: Mapping[str, str]) -> Figure:
    """Means over seeds; bars are their range; `colors` of the models. The number of views on a logarithmic axis,
    quantities from their own."""
    import matplotlib.pyplot as plt

    rows, columns = ceil(len(panels) / COLUMNS), min(len(panels), COLUMNS)
    size = (min(style.WIDTH, 2.6 * columns), 2.0 * rows + 0.3)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw_panel(axes, panel, colors)
    drawn = [axes.get_legend_handles_labels() for axes in grid.flat[: len(panels)]]
    handles = {label: handle for lines, labels in drawn for handle, label in zip(lines, labels, strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, fontsize=7)
    return figure


def _draw_panel(axes: Axes, panel: Panel, colors: Mapping[str, str]) -> None:
    from matplotlib.ticker import NullLocator

    label, baseline = panel.baseline
    if baseline:
        axes.plot(list(baseline), list(baseline.values()), color=style.FAINT, linestyle=":", label=mathtext(label))
    for i, (name, by_views) in enumerate(panel.values.items()):
        views = sorted(by_views)
        means = [float(np.mean(by_views[n])) for n in views]
        spread = [[mean - min(by_views[n]) for n, mean in zip(views, means, strict=True)],
                  [max(by_views[n]) - mean for n, mean in zip(views, means, strict=True)]]  # fmt: skip
        axes.errorbar(views, means, spread, color=colors[name], marker=MARKERS[i % len(MARKERS)], markersize=4,
                      capsize=2, label=mathtext(name))  # fmt: skip
        if (trained := panel.trained.get(name, 0)) in by_views:
            axes.plot(trained, float(np.mean(by_views[trained])), "o", color=style.INK, fillstyle="none", markersize=9)
    ticks = sorted({n for by_views in panel.values.values() for n in by_views})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_title(panel.title, fontsize=8)
    axes.set_xlabel("input views N")
    axes.locator_params(axis="y", nbins=5)
