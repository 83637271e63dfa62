"""Quality, time and memory against the number of input views: a line a model, a panel a quantity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.common.labels import mathtext
from bench.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKERS = ("o", "s", "^", "D", "v", "P")


@dataclass(frozen=True)
class Panel:
    """`values`: model → number of views → one number a seed."""

    title: str
    values: Mapping[str, Mapping[int, Sequence[float]]]


def draw(panels: Sequence[Panel]) -> Figure:
    """Means over seeds; bars are their range. The number of views on a logarithmic axis, quantities from their own."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullLocator

    figure, grid = plt.subplots(1, len(panels), figsize=(style.WIDTH, 2.3), squeeze=False, layout="constrained")
    names = list(dict.fromkeys(name for panel in panels for name in panel.values))
    colors = style.series_colors(names)
    for axes, panel in zip(grid[0], panels, strict=True):
        for i, (name, by_views) in enumerate(panel.values.items()):
            views = sorted(by_views)
            means = [float(np.mean(by_views[n])) for n in views]
            spread = [[mean - min(by_views[n]) for n, mean in zip(views, means, strict=True)],
                      [max(by_views[n]) - mean for n, mean in zip(views, means, strict=True)]]  # fmt: skip
            axes.errorbar(views, means, spread, color=colors[name], marker=MARKERS[i % len(MARKERS)], markersize=4,
                          capsize=2, label=mathtext(name))  # fmt: skip
        ticks = sorted({n for by_views in panel.values.values() for n in by_views})
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(n) for n in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_title(panel.title, fontsize=8)
        axes.set_xlabel("input views N")
        axes.locator_params(axis="y", nbins=5)
    handles = dict(zip(*reversed(grid[0][0].get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=7)
    return figure
