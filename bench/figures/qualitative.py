"""Fig. 2: inputs, truth and the models' novel views; depth of the first view's Gaussians in the true mask."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpec

Samples = Mapping[str, NDArray[np.generic]]  # samples/evaluation.npz of a run
DEPTH = "viridis_r"  # near is light
LONGEST_LINE = 40  # characters of a heading
SIZES = (6.5, 6.0, 5.5, 5.0)  # points, of all headings: the first at which no word is broken
UPRIGHT_LINES = (14, 18)  # characters of a line of a heading that is turned: usual, most
GAP = 0.03  # between pictures, of their mean width
ROOM = 0.94  # of a column's width, so that neighbors stand apart
TARGETS = 2  # target views a scene, one below the other


def draw(samples: Mapping[str, Samples]) -> Figure:
    """`samples`: label → the same scenes and views of each run. A row a scene; one depth scale a scene, for all."""
    import matplotlib.pyplot as plt
    from matplotlib.gridspec import GridSpec

    first = next(iter(samples.values()))
    scenes, models = len(first["scene"]), len(samples)
    # columns: inputs 2 | gap | truth, models | gap | true depth, models' depths, each two cells wide
    widths = [1, 1, 0.15, *[1] * (1 + models), 0.15, *[2] * (1 + models), 0.1]
    unit = style.WIDTH / sum(widths)
    depths = [f"{label}: depth" for label in samples]
    sizes = [(group, _size(group, 72 * unit * (cells - 2 * GAP))) for group, cells in ((list(samples), 1), (depths, 2))]
    size = min((fitting for _, fitting in sizes if fitting), default=SIZES[0])
    upright = [label for group, fitting in sizes if fitting is None for label in group]
    head, foot = max(0.42, *(_turned_height(label, size) for label in upright)) if upright else 0.42, 0.3
    height = unit * (TARGETS * scenes + 0.18 * (scenes - 1)) * 1.02
    figure = plt.figure(figsize=(style.WIDTH, height + head + foot))
    top = 1 - head / (height + head + foot)
    rows = ([1.0] * TARGETS + [0.18]) * scenes
    grid = GridSpec(
        len(rows) - 1, len(widths), figure, 0, foot / (height + head + foot), 1, top, GAP, GAP, widths, rows[:-1]
    )
    for scene in range(scenes):
        _scene(
            figure, grid, (TARGETS + 1) * scene, {k: {n: v[scene] for n, v in s.items()} for k, s in samples.items()}
        )
    _headings(figure, grid, list(samples), depths, upright, size)
    _depth_key(figure, foot / (height + head + foot), size)
    return figure


def _scene(figure: Figure, grid: GridSpec, row: int, samples: Mapping[str, Samples]) -> None:
    first = next(iter(samples.values()))
    count = len(first["inputs"])
    for i in range(min(4, count)):
        _picture(figure, grid[row + i // 2, i % 2], first["inputs"][i])
    targets = np.linspace(0, len(first["truth"]) - 1, TARGETS).round().astype(int)
    for below, target in enumerate(targets):
        _picture(figure, grid[row + below, 3], first["truth"][target])
        for column, sample in enumerate(samples.values()):
            _picture(figure, grid[row + below, 4 + column], sample["rendered"][target])
    start = 5 + len(samples)
    mask = first["mask"].astype(bool)
    true = first["true_depth"][mask].astype(float)
    low, high = np.percentile(true, (1, 99)) if mask.any() else (0.0, 1.0)
    margin = 0.1 * (high - low) + 1e-6
    for column, depth in enumerate([first["true_depth"], *(sample["depth"] for sample in samples.values())]):
        axes = figure.add_subplot(grid[row : row + TARGETS, start + column])
        masked_depth = np.ma.masked_where(~mask, depth.astype(float))
        axes.imshow(masked_depth, cmap=DEPTH, vmin=low - margin, vmax=high + margin, interpolation="nearest")
        _frame(axes)


def _picture(figure: Figure, place: object, image: NDArray[np.generic]) -> None:
    axes = figure.add_subplot(place)  # type: ignore[call-overload]
    axes.imshow(image, interpolation="nearest")
    _frame(axes)


def _frame(axes: Axes) -> None:
    """A hairline, since most pictures end in white."""
    style.remove_spines(axes)
    axes.set_frame_on(True)
    for spine in axes.spines.values():
        spine.set(visible=True, linewidth=0.4, color=style.RULE)


def _depth_key(figure: Figure, height: float, size: float) -> None:
    """The colors of depth: one scale a scene, set by the true surface."""
    axes = figure.add_axes((0.78, 0.25 * height, 0.13, 0.22 * height))
    axes.imshow(np.linspace(0, 1, 128)[None], cmap=DEPTH, aspect="auto")
    style.remove_spines(axes)
    axes.text(-0.04, 0.5, "depth: near", transform=axes.transAxes, ha="right", va="center", fontsize=size)
    axes.text(1.04, 0.5, "far", transform=axes.transAxes, ha="left", va="center", fontsize=size)


def _headings(
    figure: Figure, grid: GridSpec, labels: Sequence[str], depths: Sequence[str], upright: Collection[str], size: float
) -> None:
    """Over the first row, none wider than its column, in several lines; `upright` ones are turned: those of renderings,
    or of depths, where one of them would break a word even in the smallest of SIZES."""
    start = 5 + len(labels)
    columns = {(0, 1): "inputs", (3, 3): "truth", (start, start): "true depth"}
    columns |= {(4 + i, 4 + i): label for i, label in enumerate(labels)}
    columns |= {(start + 1 + i, start + 1 + i): label for i, label in enumerate(depths)}
    for (left, right), label in columns.items():
        box, end = grid[0, left].get_position(figure), grid[0, right].get_position(figure)
        turned = label in upright
        width = (end.x1 - box.x0) * figure.get_figwidth() * 72
        lines = _turned(label) if turned else _unbroken(label, width, size) or _broken(label, width, size)
        figure.text((box.x0 + end.x1) / 2, box.y1 + 0.006, lines, ha="center", va="bottom" if turned else "baseline",
                    rotation=90 if turned else 0, fontsize=size, linespacing=1.1)  # fmt: skip


def _size(labels: Sequence[str], width: float) -> float | None:
    """The largest of SIZES at which all labels fit into a width in points without a broken word; None if none is."""
    return next((size for size in SIZES if all(_unbroken(label, width, size) for label in labels)), None)


def _unbroken(label: str, width: float, size: float) -> str | None:
    """The label in as few lines as fit into a width in points, whole and without breaking a word; None if none do."""
    longest = max(map(len, label.split()), default=1)
    for characters in range(LONGEST_LINE, longest - 1, -1):
        lines = style.wrap(label, characters)
        if not lines.endswith("…") and _text_width(lines, size) <= ROOM * width:
            return lines
    return None


def _broken(label: str, width: float, size: float) -> str:
    """The same with words broken and the end left out, as far as it must be."""
    wrapped = (style.wrap(label, characters) for characters in range(LONGEST_LINE, 3, -1))
    return next((lines for lines in wrapped if _text_width(lines, size) <= ROOM * width), style.wrap(label, 4))


def _turned(label: str) -> str:
    """In as few short lines as hold it whole, and these as short as can be; else with its end left out."""
    longest = max(map(len, label.split()), default=1)
    whole = [lines for n in range(longest, max(UPRIGHT_LINES) + 1) if not (lines := style.wrap(label, n)).endswith("…")]
    for limit in UPRIGHT_LINES:
        if fits := [lines for lines in whole if max(map(len, lines.splitlines())) <= limit]:
            return min(fits, key=lambda lines: lines.count("\n"))  # the first of them has the shortest lines
    return style.wrap(label, max(UPRIGHT_LINES))


def _turned_height(label: str, size: float) -> float:
    """Inches above the pictures that a turned heading takes."""
    return _text_width(_turned(label), size) / 72 + 0.08


def _text_width(lines: str, size: float) -> float:
    """In points, of the widest line."""
    return size * max(map(_line_width, lines.split("\n")), default=0.0)


@cache
def _line_width(line: str) -> float:
    """Of a line of size 1, to which others are proportional: matplotlib takes some 10 ms to measure it."""
    from matplotlib.textpath import TextPath

    return float(TextPath((0, 0), line, size=1).get_extents().width)
