"""Time or memory of a step by part: a bar a run, a color a part, its backward pass in the same color, hatched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bench.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {
    "weights and optimizer": style.RULE, "encoder": style.PALETTE[0], "aggregator": style.PALETTE[5],
    "head": style.PALETTE[2], "rasterize": style.PALETTE[1], "losses": style.PALETTE[4], "backward": style.PALETTE[6],
    "exchange": style.PALETTE[3], "optimizer": style.PALETTE[7], "statistics": "#B5A642", "other": style.FAINT,
}  # fmt: skip
ORDER = ("weights and optimizer", "encoder", "aggregator", "head", "rasterize", "losses", "losses backward",
         "rasterize backward", "head backward", "aggregator backward", "encoder backward", "backward", "exchange",
         "optimizer", "statistics", "other")  # fmt: skip
LEAST = 2e-3  # of the longest bar; parts that are smaller everywhere (exchange, with one rank) are left out
LABELLED_SHARE = 0.07  # a part of at least this share of the longest bar says its share


def draw(values: Mapping[str, Mapping[str, float]], caption: str, unit: str) -> Figure:
    """`values`: label → part → amount, in `unit`; in the order given, from top to bottom."""
    import matplotlib.pyplot as plt

    longest = max(sum(parts.values()) for parts in values.values())
    names = shown_parts(values, longest)
    rows = -(-len(names) // 5)
    size = (style.WIDTH, 0.34 * len(values) + 0.75 + 0.17 * rows)
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    for row, parts in enumerate(values.values()):
        _bar(axes, row, {name: parts.get(name, 0.0) for name in names}, longest, unit)
    axes.set_yticks(range(len(values)), [style.wrap(label) for label in values])
    axes.set_ylim(len(values) - 0.45, -0.55)
    axes.set_xlim(0, longest * 1.12)
    axes.set_xlabel(caption, fontsize=7)
    axes.tick_params(left=False)
    axes.grid(axis="y", visible=False)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=5, fontsize=7)
    return figure


def color(part: str) -> str:
    """The same for a part in every figure, and for its backward pass."""
    return COLORS[part if part in COLORS else part.removesuffix(" backward")]


def shown_parts(values: Mapping[str, Mapping[str, float]], longest: float) -> list[str]:
    """In their order, without those that are too small to be seen everywhere."""
    return [name for name in ORDER if any(parts.get(name, 0.0) > LEAST * longest for parts in values.values())]


def _bar(axes: Axes, row: int, parts: Mapping[str, float], longest: float, unit: str) -> None:
    total, left = sum(parts.values()), 0.0
    for name, width in parts.items():
        hatch = "////" if name.endswith(" backward") else None
        axes.barh(row, width, left=left, height=0.62, color=color(name), hatch=hatch, edgecolor="white",
                  linewidth=0.4, label=name)  # fmt: skip
        if width > LABELLED_SHARE * longest:
            dark = color(name) == style.RULE
            axes.text(left + width / 2, row, f"{width / total:.0%}", ha="center", va="center", fontsize=6,
                      color=style.INK if dark else "white",
                      bbox={"facecolor": color(name), "edgecolor": "none", "pad": 0.8})  # fmt: skip
        left += width
    axes.text(left + longest * 0.01, row, f"{total:.0f} {unit}", va="center", fontsize=7)
