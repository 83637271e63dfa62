"""Are the cameras' angles right, and the pixels square? If not, in all views, depths agree less than they could.

For `python -m bench.data check`. In whole data from 64² on hardly a scene agrees better with another angle or aspect,
and none by a quarter; an angle that is 5 % wrong agrees three times worse at 256², and in half of the scenes 1.4 times
at 64². Pictures squashed by 10 % agree 1.2 to 2 times worse at 96², by a quarter 2.5 to 8 times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from bench.data.checks.single_view import ENOUGH, View

ZOOMS = (0.95, 1.05)  # of the picture's half width at distance 1
ASPECTS = (0.75, 0.9, 1.1, 1.33)  # vertical over horizontal focal length
BETTER = 0.75  # residual with another camera, over that with the given one
FAR = 12.0  # pixels' widths: another surface
MIN_PAIRS = 24  # fewer decide nothing


def better_camera(views: Mapping[int, View], pairs: Sequence[tuple[int, int]]) -> View | None:
    """The first view with the other angle or aspect with which neighbors' depths agree far better, if there is one."""
    present = _residual(views, pairs)
    if not present:
        return None
    hypotheses = [{number: _zoomed(view, factor) for number, view in views.items()} for factor in ZOOMS]
    hypotheses += [{number: replace(view, aspect=aspect) for number, view in views.items()} for aspect in ASPECTS]
    residuals = [_residual(hypothesis, pairs) or np.inf for hypothesis in hypotheses]
    best = int(np.argmin(residuals))
    return hypotheses[best][min(views)] if residuals[best] < BETTER * present else None


def _zoomed(view: View, factor: float) -> View:
    return replace(view, field_of_view=float(2 * np.arctan(factor * np.tan(view.field_of_view / 2))))


def _residual(views: Mapping[int, View], pairs: Sequence[tuple[int, int]]) -> float | None:
    """Between depths of points that both see, in pixels' widths: the median of the pairs' medians."""
    medians = [median for a, b in pairs if (median := _difference(views[a], views[b])) is not None]
    return float(np.median(medians)) if len(medians) >= MIN_PAIRS else None


def _difference(a: View, b: View) -> float | None:
    points, _, _ = a.sample
    row, column, z, inside = b.project(points)
    row, column, z = row[inside], column[inside], z[inside]
    sure = b.solid[row, column] & b.smooth[row, column]
    difference = np.abs(b.depth[row, column] - z)[sure] * b.focal / z[sure]
    same = difference < FAR
    return float(np.median(difference[same])) if same.sum() >= ENOUGH else None
