"""Fig. 1 of any resolved spec: views → E → A → D → output, with shapes, tokens, taps and parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from numpy.typing import NDArray

from bench.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from models.ead import EADSpec

FILL = {"encoder": "#DCEAF7", "aggregator": "#FCE5D2", "head": "#DCF0E5", "output": "#F1E4F3"}
EDGE = {"encoder": "#0072B2", "aggregator": "#D55E00", "head": "#009E73", "output": "#9B5FA5"}
LANES = (2.55, 1.25, -0.65)  # y of views 1, 2 and N; dots between the last two
IMAGE, ENCODER, TOKENS, AGGREGATOR, HEAD, OUTPUT = 0.85, 3.05, 5.1, 7.75, 10.6, 13.0  # x of the columns' centers
FIELD_FORMATS = {
    "patch": "patch {}",
    "width": "width {}",
    "blocks": "{} blocks",
    "heads": "{} heads",
    "features": "{} features",
    "sh_degree": "SH degree {}",
}
TOP = 4.45  # y of the headings
SIDE = 0.72  # of an image


def draw(
    spec: EADSpec, inputs: int, parameters: Mapping[str, int] | None = None, images: NDArray[np.uint8] | None = None
) -> Figure:
    """`images`: the first scene's input views (view, height, width, 3), if there are any to show."""
    import matplotlib.pyplot as plt

    lanes = LANES if inputs > 2 else LANES[:inputs]
    foot = lanes[-1] - 1.7
    figure, axes = plt.subplots(figsize=(style.WIDTH, style.WIDTH * (TOP - foot + 0.2) / 14.25))
    axes.set(xlim=(-0.15, 14.1), ylim=(foot - 0.1, TOP + 0.1), aspect="equal")
    style.remove_spines(axes)
    for i, y in enumerate(lanes):
        view = i if i < 2 else inputs - 1
        _lane(axes, y, str(view + 1), None if images is None else images[view])
    if inputs > 3:
        for x in (IMAGE, ENCODER, TOKENS, HEAD, OUTPUT):
            axes.text(
                x, (LANES[1] + LANES[2]) / 2 - 0.08, "⋮", ha="center", va="center", fontsize=11, color=style.FAINT
            )
    _aggregator(axes, spec, lanes)
    _headings(axes, spec, inputs, parameters or {}, foot)
    return figure


def _lane(axes: Axes, y: float, name: str, image: NDArray[np.uint8] | None) -> None:
    """One view: image → E → tokens → A (drawn once, over all lanes) → D → output."""
    _image(axes, IMAGE, y, image)
    axes.text(IMAGE - SIDE / 2 - 0.1, y, f"$I_{{{name}}}$", ha="right", va="center", fontsize=8)
    _arrow(axes, (1.32, y), (2.18, y))
    _box(axes, "encoder", (ENCODER, y), (1.6, 0.76), "E")
    _arrow(axes, (3.92, y), (4.6, y))
    _tokens(axes, TOKENS, y, EDGE["encoder"], f"$T_{{{name}}}$")
    _arrow(axes, (5.55, y), (6.08, y))
    _arrow(axes, (9.42, y), (9.73, y))
    _box(axes, "head", (HEAD, y), (1.6, 0.76), "D")
    _arrow(axes, (11.47, y), (12.13, y))
    _box(axes, "output", (OUTPUT, y), (1.6, 0.76), f"$G_{{{name}}}$")


def _aggregator(axes: Axes, spec: EADSpec, lanes: tuple[float, ...]) -> None:
    """A over all views, a stripe a block; below it, where D reads: level 0 is E's tokens, k is block k's output."""
    width, bottom, top = 3.2, lanes[-1] - 0.5, lanes[0] + 0.5
    middle = (top + bottom) / 2
    _box(axes, "aggregator", (AGGREGATOR, middle), (width, top - bottom), "")
    blocks = spec.aggregator.blocks
    inner, pitch = AGGREGATOR - width / 2 + 0.18, (width - 0.36) / blocks
    thick = min(0.72 * pitch, 0.55)
    for i in range(blocks):
        corner = (inner + (i + 0.5) * pitch - thick / 2, bottom + 0.14)
        stripe = Rectangle(
            corner, thick, top - bottom - 0.28, facecolor="white", edgecolor=EDGE["aggregator"], linewidth=0.5
        )
        axes.add_patch(stripe)
    plate = {"boxstyle": "round,pad=0.25", "facecolor": FILL["aggregator"], "edgecolor": "none"}
    axes.text(AGGREGATOR, middle, "A", ha="center", va="center", fontsize=15, weight="bold", bbox=plate)
    _taps(axes, spec, inner, pitch, bottom)


def _taps(axes: Axes, spec: EADSpec, inner: float, pitch: float, bottom: float) -> None:
    """A bus below A into D; a level read twice is named once with its count."""
    levels = spec.head.tap_levels(spec.aggregator.blocks)
    if levels == (spec.aggregator.blocks,):
        return
    bus = bottom - 0.45
    line: dict[str, Any] = {"color": EDGE["head"], "linewidth": 1.0}
    places = {level: inner + level * pitch for level in levels}
    for level, x in places.items():
        axes.plot([x, x], [bottom, bus], **line, solid_capstyle="round")
        axes.plot([x], [bottom], marker="o", markersize=2.6, color=EDGE["head"])
        times = f"{level} (×{levels.count(level)})" if levels.count(level) > 1 else str(level)
        axes.text(x, bus - 0.1, times, ha="center", va="top", fontsize=6.5, color=EDGE["head"])
    axes.plot([min(places.values()), HEAD], [bus, bus], **line)
    _arrow(axes, (HEAD, bus), (HEAD, bottom + 0.12), EDGE["head"])
    axes.text(HEAD + 0.15, bus, "taps of every view", ha="left", va="center", fontsize=6.5, color=EDGE["head"])


def _headings(axes: Axes, spec: EADSpec, inputs: int, parameters: Mapping[str, int], foot: float) -> None:
    tokens, size = spec.encoder.tokens(), spec.image_size
    side, channels = size // tokens.patch, sum(spec.output.channels().values())
    columns = {
        IMAGE: ("input views", f"{inputs} × {size} × {size} × 3", style.INK),
        ENCODER: (*_title(spec, "encoder"), EDGE["encoder"]),
        TOKENS: ("tokens", f"{side} × {side} × {tokens.dim}", style.INK),
        AGGREGATOR: (*_title(spec, "aggregator"), EDGE["aggregator"]),
        HEAD: (*_title(spec, "head"), EDGE["head"]),
        OUTPUT: (*_title(spec, "output"), EDGE["output"]),
    }
    for x, (title, detail, color) in columns.items():
        axes.text(x, TOP, title, ha="center", va="top", fontsize=8, weight="bold", color=color)
        axes.text(x, TOP - 0.36, detail, ha="center", va="top", fontsize=6, color=style.FAINT, linespacing=1.25)
    axes.text(AGGREGATOR, TOP - 0.68, f"{spec.tokens_per_scene(inputs):,} tokens a scene", ha="center", va="top",
              fontsize=6, color=style.FAINT)  # fmt: skip
    axes.text(OUTPUT, foot, f"{size} × {size} × {channels}", ha="center", fontsize=7, color=EDGE["output"])
    for part, x in (("encoder", ENCODER), ("aggregator", AGGREGATOR), ("head", HEAD)):
        if part in parameters:
            number = parameters[part]
            count = f"{number / 1e6:,.1f}M parameters" if number >= 10**6 else f"{number / 1e3:,.1f}K parameters"
            axes.text(x, foot, count, ha="center", fontsize=7, color=EDGE[part])


def _title(spec: EADSpec, part: str) -> tuple[str, str]:
    """The part's name, and the fields that shape it, two a line."""
    fields: dict[str, Any] = getattr(spec, part).to_dict()
    texts = [text.format(fields[name]) for name, text in FIELD_FORMATS.items() if fields.get(name) is not None]
    lines = [", ".join(texts[i : i + 2]) for i in range(0, len(texts), 2)]
    return str(fields["name"]).replace("_", " "), "\n".join(lines)


def _image(axes: Axes, x: float, y: float, image: NDArray[np.uint8] | None) -> None:
    extent = (x - SIDE / 2, x + SIDE / 2, y - SIDE / 2, y + SIDE / 2)
    if image is None:
        ramp = np.linspace(0.93, 0.78, 32)[:, None, None] * np.ones((1, 32, 3))
        image = (255 * ramp).astype(np.uint8)
    axes.imshow(image, extent=extent, interpolation="nearest", zorder=2)
    axes.add_patch(Rectangle(extent[::2], SIDE, SIDE, fill=False, edgecolor=style.FAINT, linewidth=0.6, zorder=3))


def _box(axes: Axes, part: str, center: tuple[float, float], size: tuple[float, float], text: str) -> None:
    corner = (center[0] - size[0] / 2, center[1] - size[1] / 2)
    rounding = "round,pad=0,rounding_size=0.12"
    box = FancyBboxPatch(corner, *size, rounding, facecolor=FILL[part], edgecolor=EDGE[part], linewidth=1.0)
    axes.add_patch(box)
    weight = "normal" if text.startswith("$") else "bold"
    axes.text(*center, text, ha="center", va="center_baseline", fontsize=11, weight=weight)


def _tokens(axes: Axes, x: float, y: float, color: str, name: str) -> None:
    """A small grid of tokens."""
    cell, count = 0.17, 4
    for row in range(count):
        for column in range(count):
            corner = (x + (column - count / 2) * cell, y + (row - count / 2) * cell)
            axes.add_patch(Rectangle(corner, 0.82 * cell, 0.82 * cell, facecolor=color, alpha=0.35, linewidth=0))
    axes.text(x, y - count / 2 * cell - 0.08, name, ha="center", va="top", fontsize=8)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str = style.FAINT) -> None:
    arrow = FancyArrowPatch(
        start, end, arrowstyle="-|>", mutation_scale=7, linewidth=0.9, color=color, shrinkA=0, shrinkB=0
    )
    axes.add_patch(arrow)
