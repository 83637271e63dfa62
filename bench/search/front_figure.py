"""figures/front.{png,svg}: the trials of a search over its objectives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.common.files import atomic_write
from bench.figures import pareto, style
from bench.search.pareto_front import ParetoRow, nondominated_rows

if TYPE_CHECKING:
    from bench.config.search_section import Search


def write_front_figure(folder: Path, search: Search, rows: Sequence[ParetoRow]) -> list[Path]:
    """The paths written; none while no run has values."""
    front = nondominated_rows(rows, search.objectives)
    points = [
        pareto.Point(row.values, row in front, str(row.number) if row in front and row.number is not None else "",
                     row.label if row.kind == "reference" else "")
        for row in rows if row.values and row.kind in ("reference", "trial")
    ]  # fmt: skip
    if not points:
        return []
    axes = [pareto.Axis(o.name, o.title, o.better, o.source == "count") for o in search.objectives]
    steps = search.sweep.runs[0].spec.train.steps
    caption = f"{search.sweep.name}, scale {search.sweep.scale}, {steps} steps"
    paths = [folder / "figures" / f"front.{suffix}" for suffix in ("png", "svg")]
    with style.style():
        figure = pareto.draw(points, axes, caption)

        def save(target: Path) -> None:
            style.save(figure, target)

        for path in paths:
            atomic_write(path, save)
    return paths
