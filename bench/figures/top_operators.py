"""The operators that take most of a step's time: a panel a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bench.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS, SHOWN = 3, 8
LONGEST_NAME = 26


def draw(operators: Mapping[str, Sequence[tuple[str, float]]], caption: str) -> Figure:
    """`operators`: label → (name, share of the time of all operators), the largest first."""
    import matplotlib.pyplot as plt

    columns = min(COLUMNS, len(operators))
    rows = -(-len(operators) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(style.WIDTH, 1.7 * rows + 0.35), squeeze=False, sharex=True,
                                layout="constrained")  # fmt: skip
    for axes in grid.flat[len(operators) :]:
        axes.set_visible(False)
    for axes, (label, entries) in zip(grid.flat, operators.items(), strict=False):
        names, shares = zip(*entries[:SHOWN], strict=True)
        axes.barh(range(len(names)), [100 * share for share in shares], height=0.66, color=style.PALETTE[0])
        for row, share in enumerate(shares):
            axes.text(100 * share, row, f" {share:.0%}", va="center", fontsize=6)
        axes.set_yticks(range(len(names)), [_short(name) for name in names], fontsize=6)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_title(style.wrap(label), fontsize=8)
        axes.tick_params(left=False)
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.18)
    figure.supxlabel(caption, fontsize=7)
    return figure


def _short(name: str) -> str:
    """Without namespaces, and without the middle of long names: kernels of a GPU begin alike."""
    name = name.split("::")[-1] if "<" not in name and "(" not in name else name.removeprefix("void ")
    half = LONGEST_NAME // 2
    return style.wrap(name if len(name) <= LONGEST_NAME else f"{name[:half]}…{name[1 - half :]}")
