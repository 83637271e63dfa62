"""Fig. 3: each loss term against the training step, one curve a run, seeds averaged into a band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.common.labels import mathtext
from bench.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Records = Sequence[Mapping[str, Any]]  # one run's metrics.jsonl: {"step": …, "loss/mse": …}
MOST_POINTS = 500  # of a curve; more are thinned out, which a page's width does not show
LEGEND_CHARACTERS = 90  # of all columns of the legend together
TITLES = {  # of eq. 6; any other term goes by its own name
    "mse": r"$\mathcal{L}_m$  mean squared error",
    "lpips": r"$\mathcal{L}_l$  LPIPS",
    "points": r"$\mathcal{L}_{3D}$  point error",
}


def draw(curves: Mapping[str, Sequence[Records]]) -> Figure:
    """`curves`: label → the records of its seeds. Steps at the start with L_3D alone are shaded."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    terms = sorted(
        {key.removeprefix("loss/") for runs in curves.values() for records in runs for record in records
         for key in record if key.startswith("loss/")},
        key=lambda term: (*TITLES, term).index(term),
    )  # fmt: skip
    columns = max(len(terms), 1)
    figure, grid = plt.subplots(1, columns, figsize=(style.WIDTH, 2.5), squeeze=False, layout="constrained")
    firsts = [points_only_steps(records) for runs in curves.values() for records in runs]
    geometry_first = min((first for first in firsts if first is not None), default=0)
    colors, dashes = style.series_colors(list(curves)), style.dashes(list(curves))
    for axes, term in zip(grid[0], terms, strict=False):
        for label, runs in curves.items():
            _curve(axes, label, runs, f"loss/{term}", colors[label], dashes[label])
        if geometry_first:
            axes.axvspan(0, geometry_first, color="#F0F0F0", zorder=0, linewidth=0)
        axes.set(title=TITLES.get(term, mathtext(term)), xlabel="training step", xlim=(0, None))
        if _all_positive(curves, f"loss/{term}"):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter("{x:g}")
    if geometry_first:
        axes = grid[0][0]
        axes.text(geometry_first / 2, 0.98, r"$\mathcal{L}_{3D}$ alone", transform=axes.get_xaxis_transform(),
                  ha="center", va="top", fontsize=6.5, color=style.FAINT)  # fmt: skip
    handles, labels = grid[0][0].get_legend_handles_labels()
    longest = max((len(line) for label in labels for line in label.splitlines()), default=1)
    columns = max(1, min(len(labels), 4, LEGEND_CHARACTERS // longest))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)
    return figure


def points_only_steps(records: Records) -> int | None:
    """The step before the first with another term than L_3D; None for a run that ended before it."""
    rendered = (
        r["step"] for r in records if any(k.startswith("loss/") and k != "loss/points" for k in r if r[k] is not None)
    )
    first = next(rendered, None)
    return None if first is None else max(0, first - 1)


def _curve(axes: Axes, label: str, runs: Sequence[Records], key: str, color: str, dash: str) -> None:
    """Raw values faint, their running mean on top; of several seeds the mean curve and the range."""
    series = [np.array([(r["step"], r[key]) for r in records if r.get(key) is not None]) for records in runs]
    series = [values for values in series if len(values)]
    if not series:
        axes.plot([], [], color=color, linestyle=dash, label=style.wrap(label, 60))
        return
    length = min(len(values) for values in series)
    steps = series[0][:length, 0]
    raw = np.stack([values[:length, 1] for values in series])
    smooth = np.stack([_running_mean(values) for values in raw])
    every = slice(None, None, -(-length // MOST_POINTS))
    if len(series) == 1:
        axes.plot(steps[every], raw[0, every], color=color, linewidth=0.4, alpha=0.25)
    else:
        low, high = smooth.min(0), smooth.max(0)
        axes.fill_between(steps[every], low[every], high[every], color=color, alpha=0.18, linewidth=0)
    axes.plot(steps[every], smooth.mean(0)[every], color=color, linestyle=dash, label=style.wrap(label, 60))


def _all_positive(curves: Mapping[str, Sequence[Records]], key: str) -> bool:
    """Whether a logarithmic axis can show a term: a confidence-weighted one falls below 0."""
    values = (record.get(key) for runs in curves.values() for records in runs for record in records)
    return all(value > 0 for value in values if value is not None)


def _running_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centered window of 4 % of the run, cut at its ends."""
    half = max(1, len(values) // 50)
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    left, right = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    mean: NDArray[np.float64] = (total[right] - total[left]) / (right - left)
    return mean
