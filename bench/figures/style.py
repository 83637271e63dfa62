"""One look for every figure: sizes of a two-column paper, a color-blind-safe palette, reproducible files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.0  # inches, two columns
PALETTE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#7A5195",
    "#6B4F3A",
)  # after Okabe and Ito
INK, FAINT, RULE = "#1A1A1A", "#6E6E6E", "#D0D0D0"

SETTINGS: Any = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.5,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "svg.fonttype": "path",
    "svg.hashsalt": "ead-bench",
    "text.color": INK,
    "axes.labelcolor": INK,
}


@contextmanager
def style() -> Iterator[None]:
    """The settings of every figure, for a block; the file-writing back end, whatever the environment says."""
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    with mpl.rc_context(SETTINGS):
        yield
    plt.close("all")


def series_colors(labels: Sequence[str]) -> dict[str, str]:
    """label → color: the same for a run in every figure of its sweep."""
    return {label: PALETTE[i % len(PALETTE)] for i, label in enumerate(labels)}


def dashes(labels: Sequence[str]) -> dict[str, str]:
    """label → line style, another one each time the palette starts again."""
    return {label: ("-", "--", ":", "-.")[i // len(PALETTE) % 4] for i, label in enumerate(labels)}


def remove_spines(axes: Axes) -> None:
    """No ticks, frame or grid: for pictures."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.set_frame_on(False)


def save(figure: Figure, path: Path) -> None:
    """Write without dates, so that the same numbers give the same bytes; the suffix says the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    figure.savefig(path, dpi=220, bbox_inches="tight", pad_inches=0.04, metadata=metadata)
