"""Where a training step's time goes: a bar a run, a color a part, its backward pass in the same color, hatched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bench.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {
    "encoder": style.PALETTE[0], "aggregator": style.PALETTE[5], "head": style.PALETTE[2],
    "rasterize": style.PALETTE[1], "losses": style.PALETTE[4], "exchange": style.PALETTE[3],
    "optimizer": style.PALETTE[7], "statistics": style.PALETTE[6], "other": style.FAINT,
}  # fmt: skip
ORDER = ("encoder", "aggregator", "head", "rasterize", "losses", "losses backward", "rasterize backward",
         "head backward", "aggregator backward", "encoder backward", "exchange", "optimizer", "statistics",
         "other")  # fmt: skip
LEAST = 1e-3  # of the longest step; parts that are smaller everywhere (exchange, with one rank) are left out
LABELLED_SHARE = 0.07  # a part of at least this share of the longest step says its share


def draw(parts_ms: Mapping[str, Mapping[str, float]], caption: str) -> Figure:
    """`parts_ms`: label → part → milliseconds of one step; in the order given, from top to bottom."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(style.WIDTH, 0.34 * len(parts_ms) + 1.25), layout="constrained")
    longest = max(sum(parts[name] for name in ORDER) for parts in parts_ms.values())
    names = [name for name in ORDER if any(parts[name] > LEAST * longest for parts in parts_ms.values())]
    for row, parts in enumerate(parts_ms.values()):
        _bar(axes, row, {name: parts[name] for name in names}, longest)
    axes.set_yticks(range(len(parts_ms)), [style.wrap(label) for label in parts_ms])
    axes.set_ylim(len(parts_ms) - 0.45, -0.55)
    axes.set_xlim(0, longest * 1.1)
    axes.set_xlabel(caption, fontsize=7)
    axes.tick_params(left=False)
    axes.grid(axis="y", visible=False)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=5, fontsize=7)
    return figure


def _bar(axes: Axes, row: int, parts: Mapping[str, float], longest: float) -> None:
    total, left = sum(parts.values()), 0.0
    for name, width in parts.items():
        color = COLORS[name.removesuffix(" backward")]
        hatch = "////" if name.endswith("backward") else None
        axes.barh(row, width, left=left, height=0.62, color=color, hatch=hatch, edgecolor="white",
                  linewidth=0.4, label=name)  # fmt: skip
        if width > LABELLED_SHARE * longest:
            axes.text(left + width / 2, row, f"{width / total:.0%}", ha="center", va="center", fontsize=6,
                      color="white", bbox={"facecolor": color, "edgecolor": "none", "pad": 0.8})  # fmt: skip
        left += width
    axes.text(left + longest * 0.01, row, f"{total:.0f} ms", va="center", fontsize=7)
