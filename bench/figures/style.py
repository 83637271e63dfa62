"""One look for every figure: sizes of a two-column paper, a color-blind-safe palette, reproducible files."""

from __future__ import annotations

import logging
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

from bench.common.labels import mathtext, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

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
MISSING_GLYPH = re.compile(r"Glyph (\d+) .*missing from font")
INK, FAINT, RULE = "#1A1A1A", "#6E6E6E", "#D0D0D0"

SETTINGS: Any = {
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


FALLBACK_FONTS = ("Noto Sans CJK JP", "Noto Sans", "IPAexGothic", "WenQuanYi Zen Hei", "Droid Sans Fallback",
                  "Arial Unicode MS", "Hiragino Sans", "Yu Gothic", "Microsoft YaHei")  # fmt: skip


@contextmanager
def style() -> Iterator[None]:
    """The settings of every figure, for a block; the file-writing back end, whatever the environment says.

    Labels may be of any script: fonts for others are tried where they are installed, and what none of them has is
    logged once.
    """
    import matplotlib.pyplot as plt
    from matplotlib.font_manager import fontManager

    plt.switch_backend("agg")
    installed = set(fontManager.get_font_names())
    fonts = ["DejaVu Sans", *(name for name in FALLBACK_FONTS if name in installed)]
    with warnings.catch_warnings(record=True) as caught, mpl.rc_context({**SETTINGS, "font.family": fonts}):
        warnings.simplefilter("always")
        yield
    plt.close("all")
    missing = dict.fromkeys(match[1] for w in caught if (match := MISSING_GLYPH.match(str(w.message))))
    for warning in caught:
        if not MISSING_GLYPH.match(str(warning.message)):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if missing:
        characters = "".join(chr(int(code)) for code in missing)
        log.warning("figures: no installed font has %s: boxes stand for them; install one that has them", characters)


def wrap(label: str, width: int = 30) -> str:
    """A label in lines of at most `width` characters, three at most, as text that matplotlib takes for no formula."""
    return "\n".join(map(mathtext, textwrap.wrap(plain(label), width, max_lines=3, placeholder="…")))


def series_colors(labels: Sequence[str]) -> dict[str, str]:
    """label → color, by their order."""
    return {label: PALETTE[i % len(PALETTE)] for i, label in enumerate(labels)}


def remove_spines(axes: Axes) -> None:
    """No ticks, frame or grid: for pictures."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.set_frame_on(False)


def save(figure: Figure, path: Path) -> None:
    """Write without dates, so that the same numbers give the same bytes; the suffix says the format."""
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    figure.savefig(path, dpi=220, bbox_inches="tight", pad_inches=0.04, metadata=metadata)
    plt.close(figure)
