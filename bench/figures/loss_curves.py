"""Fig. 3: each loss term against the training step, one curve a run, seeds averaged into a band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.common.labels import mathtext
from bench.figures import style
from bench.figures.series import Series, handles, of_labels

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Records = Sequence[Mapping[str, Any]]  # one run's metrics.jsonl: {"step": …, "loss/mse": …}
MOST_POINTS = 500  # of a curve; more are thinned out, which a page's width does not show
LEGEND_CHARACTERS = 110  # of all columns of the legend together
FEW = 4  # curves, whose raw values do not yet cover their means
SHADE = "#EBEBEB"  # of steps before the first rendering
TITLES = {  # of eq. 6; any other term goes by its own name
    "mse": r"$\mathcal{L}_m$  mean squared error",
    "lpips": r"$\mathcal{L}_l$  LPIPS",
    "points": r"$\mathcal{L}_{3D}$  point error",
}


def draw(curves: Mapping[str, Sequence[Records]], series: Mapping[str, Series] | None = None) -> Figure:
    """`curves`: label → the records of its seeds; `series`: how each is drawn, by default in a color of its own.
    Steps at the start with L_3D alone are shaded."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch
    from matplotlib.ticker import LogLocator, NullFormatter

    terms = sorted(
        {key.removeprefix("loss/") for runs in curves.values() for records in runs for record in records
         for key in record if key.startswith("loss/")},
        key=lambda term: (*TITLES, term).index(term),
    )  # fmt: skip
    figure, grid = plt.subplots(1, max(len(terms), 1), squeeze=False, layout="constrained")
    firsts = [points_only_steps(records) for runs in curves.values() for records in runs]
    geometry_first = min((first for first in firsts if first is not None), default=0)
    looks = series or of_labels(list(curves))
    for axes, term in zip(grid[0], terms, strict=False):
        for label, runs in curves.items():
            _curve(axes, runs, f"loss/{term}", looks[label], raw=len(curves) <= FEW)
        if geometry_first:
            axes.axvspan(0, geometry_first, color=SHADE, zorder=0, linewidth=0)
        axes.set(title=TITLES.get(term, mathtext(term)), xlabel="training step", xlim=(0, None))
        if _all_positive(curves, f"loss/{term}"):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter("{x:g}")
    legend: list[Artist] = [*handles({label: looks[label] for label in curves})]
    longest = max((len(line) for artist in legend for line in str(artist.get_label()).splitlines()), default=1)
    legend += [Patch(color=SHADE, label=r"$\mathcal{L}_{3D}$ alone")] if geometry_first else []
    columns = max(1, min(len(legend), 6, LEGEND_CHARACTERS // (longest + 5)))
    figure.set_size_inches(style.WIDTH, 2.2 + 0.16 * -(-len(legend) // columns))
    figure.legend(handles=legend, loc="outside lower center", ncols=columns, handlelength=2.6, fontsize=7)
    return figure


def points_only_steps(records: Records) -> int | None:
    """The step before the first with another term than L_3D; None for a run that ended before it."""
    rendered = (
        r["step"] for r in records if any(k.startswith("loss/") and k != "loss/points" for k in r if r[k] is not None)
    )
    first = next(rendered, None)
    return None if first is None else max(0, first - 1)


def _curve(axes: Axes, runs: Sequence[Records], key: str, look: Series, raw: bool) -> None:
    """The running mean, under it faint the `raw` values; of several seeds the mean curve and the range."""
    series = [np.array([(r["step"], r[key]) for r in records if r.get(key) is not None]) for records in runs]
    series = [values for values in series if len(values)]
    if not series:
        return
    length = min(len(values) for values in series)
    steps = series[0][:length, 0]
    recorded = np.stack([values[:length, 1] for values in series])
    smooth = np.stack([_running_mean(values) for values in recorded])
    every = slice(None, None, -(-length // MOST_POINTS))
    if len(series) == 1 and raw:
        axes.plot(steps[every], recorded[0, every], color=look.color, linewidth=0.4, alpha=0.25)
    elif len(series) > 1:
        low, high = smooth.min(0), smooth.max(0)
        axes.fill_between(steps[every], low[every], high[every], color=look.color, alpha=0.18, linewidth=0)
    axes.plot(steps[every], smooth.mean(0)[every], color=look.color, linestyle=look.line)


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
