"""What tensors hold during a step, by the part that allocated it: a panel a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.figures import stacked_bars, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 3
MOST_POINTS = 120  # of a panel; more are thinned out, which its width does not show


@dataclass(frozen=True)
class Timeline:
    """`mib`: part → MiB at each of the moments."""

    time_ms: Sequence[float]
    mib: Mapping[str, Sequence[float]]


def draw(timelines: Mapping[str, Timeline], caption: str) -> Figure:
    """One y axis for all, so that heights compare; time is a share of the step. The mark is at the true peak."""
    import matplotlib.pyplot as plt

    columns = min(COLUMNS, len(timelines))
    rows = -(-len(timelines) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(style.WIDTH, 1.75 * rows + 0.6), sharex=True, sharey=True,
                                squeeze=False, layout="constrained")  # fmt: skip
    largest = {label: {part: max(held) for part, held in line.mib.items()} for label, line in timelines.items()}
    names = stacked_bars.shown_parts(largest, max(sum(parts.values()) for parts in largest.values()))
    for axes in grid.flat[len(timelines) :]:
        axes.set_visible(False)
    for axes, (label, line) in zip(grid.flat, timelines.items(), strict=False):
        shares = 100 * np.asarray(line.time_ms) / line.time_ms[-1]
        layers = [np.asarray(line.mib.get(name, np.zeros(len(shares)))) for name in names]
        total = np.sum(layers, axis=0)
        every = np.unique(np.linspace(0, len(shares) - 1, MOST_POINTS).astype(int))  # the first and the last, too
        axes.stackplot(shares[every], [layer[every] for layer in layers], labels=names, step="post", linewidth=0,
                       colors=[stacked_bars.color(name) for name in names])  # fmt: skip
        peak = int(np.argmax(total))
        axes.plot(shares[peak], total[peak], "v", color=style.INK, markersize=4)
        right = shares[peak] > 60
        axes.annotate(f"{total[peak]:.0f} MiB", (shares[peak], total[peak]), xytext=(-5 if right else 5, 2),
                      textcoords="offset points", fontsize=7, ha="right" if right else "left")  # fmt: skip
        axes.set_title(style.wrap(label), fontsize=8)
        axes.set_xlim(0, 100)
        axes.margins(y=0.14)
    for axes in grid[:, 0]:
        axes.set_ylabel("MiB", fontsize=7)
    figure.supxlabel(caption, fontsize=7)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, fontsize=7)
    return figure
