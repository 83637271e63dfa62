"""Views of a scene against each other: is what one sees possible in the next? For `python -m bench.data check`.

A seen point that another view sees through, or behind which it sees something, is a contradiction whatever the object;
a point that is hidden there is none. In whole data, thin parts of real models at 64² included, hardly a pair of views
has any; a view put in its neighbor's place, 15° away, has a tenth to all of its points contradicted. Real depth agrees
to 0.0004 in the median, far below what is allowed here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from bench.data.checks.field_of_view import better_camera
from bench.data.checks.single_view import ENOUGH, Floats, View

NEIGHBORS = 4
DEPTH = 2e-3  # world units that a point may lie in front of what is seen there, beside half a pixel's width
CONFLICT, MOST = 0.02, 0.25  # share of a view's points that another view contradicts: least and greatest limit
FRINGE = 25  # pixels of a view that may be contradicted whatever its size: thin parts, seen from the side
SPREAD, LITTLE = 2.0, 0.05  # added: times what nine of ten pairs stay under, and at most
SYSTEMATIC = 0.15  # the same, in a scene's median: no single view is wrong then
COLOR = 0.08  # difference of colors in [0, 1], in the median
TIMES = 4.0  # over the scene's usual conflict or difference: thin things at few pixels have more of both
SAME_SIDE = 0.7  # cosine of normals: a thin thing's other side has other colors
GRAZING = 0.2  # cosine at which a thin sheet may fall between the samples of a picture
SWAPPED = 0.5  # what exchanging channels leaves of the difference
TINTED = 0.015  # difference below which channels are not compared


@dataclass(frozen=True)
class Pair:
    """How two views see each other's points."""

    conflict: float  # share contradicted, the larger of the two ways
    allowed: float  # of that, in whole data
    color: float  # difference in the median; NaN where too few points are seen by both
    exchanged: Mapping[tuple[int, ...], float]  # the same, with the channels of the first in another order


def check_pairs(views: Sequence[View]) -> Iterator[tuple[int | None, str, str]]:
    """(view, kind, detail) of views that their neighbors contradict; no view where most of a scene's do."""
    by_number = {view.number: view for view in views}
    pairs = {(i, j): compare(by_number[i], by_number[j]) for i, j in neighbors(views)}
    usual = float(np.median([pair.conflict for pair in pairs.values()])) if pairs else 0.0
    common = float(np.quantile([pair.conflict for pair in pairs.values()] or [0.0], 0.9))
    spread = min(SPREAD * common, LITTLE)
    limits = {edge: min(max(pair.allowed, TIMES * usual), MOST) + spread for edge, pair in pairs.items()}
    odd = suspect_views({edge: pair.conflict > limits[edge] for edge, pair in pairs.items()})
    if usual > SYSTEMATIC or len(odd) > len(views) / 2:
        yield None, "reprojection", f"{usual:.0%} of a view's points are contradicted by the next, in the median"
        return
    for number in odd:
        around = [pair.conflict for edge, pair in pairs.items() if number in edge]
        detail = (
            f"{np.median(around):.0%} of the points are contradicted by neighbors' depth: camera or picture is wrong"
        )
        yield number, "reprojection", detail
    if better := better_camera(by_number, list(pairs)):
        wrong, right = (np.degrees(view.field_of_view) for view in (by_number[min(by_number)], better))
        if better.aspect == 1:
            yield None, "field of view", f"neighbors' depths agree better with {right:.1f}° than with {wrong:.1f}°"
        else:
            detail = f"neighbors' depths agree better if vertical focal lengths are {better.aspect:g} times as long"
            yield None, "aspect", f"{detail}: squashed pictures, or pixels that are not square"
    yield from _colors({edge: pair for edge, pair in pairs.items() if not set(edge) & set(odd)}, by_number)


def _colors(pairs: Mapping[tuple[int, int], Pair], views: Mapping[int, View]) -> Iterator[tuple[int, str, str]]:
    """Views whose colors do not fit those of the same points in others."""
    known = {edge: pair for edge, pair in pairs.items() if np.isfinite(pair.color)}
    compared = Counter(number for edge in known for number in edge)
    for number in {number for edge in pairs for number in edge if compared[number] < 2}:  # from above or below
        pooled = _compare_with_all(views[number], list(views.values()))
        if order := _order(pooled):
            yield number, "channels", _channels_detail(order, pooled.color)
    if not known:
        return
    usual = float(np.median([pair.color for pair in known.values()]))
    limit = max(COLOR, TIMES * usual)
    for number in suspect_views({edge: pair.color > limit or _order(pair) is not None for edge, pair in known.items()}):
        around = [compare(views[number], views[b if a == number else a]) for a, b in known if number in (a, b)]
        around = [pair for pair in around if np.isfinite(pair.color)]
        if len(around) < 2:  # one neighbor may see another side of a thin thing
            continue
        orders = [order for order in map(_order, around) if order]
        difference = np.median([pair.color for pair in around])
        if len(orders) * 2 > len(around):
            yield number, "channels", _channels_detail(max(orders, key=orders.count), float(difference))
        else:
            yield (
                number,
                "color",
                f"differs by {difference:.2f} from the same points in neighbors, usual is {usual:.2f}",
            )


def _channels_detail(order: tuple[int, ...], difference: float) -> str:
    name = "".join("RGB"[i] for i in order)
    return f"colors fit the neighbors' when read as {name}, and differ by {difference:.2f} as RGB"


def _order(pair: Pair) -> tuple[int, ...] | None:
    """The order of the first's channels in which they fit far better, if there is one."""
    order = min(pair.exchanged, key=lambda key: pair.exchanged[key])
    return order if pair.color > TINTED and pair.exchanged[order] < SWAPPED * pair.color else None


def neighbors(views: Sequence[View]) -> list[tuple[int, int]]:
    """Pairs (smaller, larger number): each view with those whose cameras stand nearest."""
    centers = np.stack([view.camera_to_world[:3, 3] for view in views]) if views else np.zeros((0, 3))
    distance = np.linalg.norm(centers[:, None] - centers, axis=-1)
    np.fill_diagonal(distance, np.inf)
    near = np.argsort(distance, axis=1, kind="stable")[:, : min(NEIGHBORS, max(0, len(views) - 1))]
    pairs = {tuple(sorted((views[i].number, views[j].number))) for i, row in enumerate(near) for j in row.tolist()}
    return sorted((a, b) for a, b in pairs)


def suspect_views(bad: Mapping[tuple[int, int], bool]) -> list[int]:
    """The fewest views that explain bad pairs: one with most of its pairs bad is taken out first, and so on.

    One bad pair among good ones is no evidence against a view.
    """
    remaining, suspects = dict(bad), set[int]()
    while True:
        views = {number for edge in remaining for number in edge}
        pairs = {v: [is_bad for edge, is_bad in remaining.items() if v in edge] for v in views}
        shares = {v: sum(p) / len(p) for v, p in pairs.items() if sum(p) >= min(2, len(p)) and 2 * sum(p) > len(p)}
        if not shares:
            return sorted(suspects)
        worst = max(shares, key=lambda v: (shares[v], sum(pairs[v]), -v))
        suspects.add(worst)
        remaining = {edge: is_bad for edge, is_bad in remaining.items() if worst not in edge}


def compare(a: View, b: View) -> Pair:
    """Each one's points, seen by the other."""
    (conflict, mine, theirs), (back, _, _) = _seen_by(a, b), _seen_by(b, a)
    allowed = max(CONFLICT, FRINGE / max(1, min(a.size, b.size)))
    return _pair(max(conflict, back), allowed, mine, theirs)


def _compare_with_all(view: View, others: Sequence[View]) -> Pair:
    """The colors of one view's points in all other views together, each of which sees few of them."""
    seen = [_seen_by(view, other)[1:] for other in others if other.number != view.number]
    return _pair(0.0, 1.0, np.concatenate([mine for mine, _ in seen]), np.concatenate([theirs for _, theirs in seen]))


def _pair(conflict: float, allowed: float, mine: Floats, theirs: Floats) -> Pair:
    """`mine`, `theirs`: colors (n, 3) of the same points in both views."""
    orders = [order for order in permutations(range(3)) if order != (0, 1, 2)]
    if len(mine) < ENOUGH:
        return Pair(conflict, allowed, np.nan, dict.fromkeys(orders, np.nan))
    exchanged = {order: _difference(mine[:, order], theirs) for order in orders}
    return Pair(conflict, allowed, _difference(mine, theirs), exchanged)


def _difference(mine: Floats, theirs: Floats) -> float:
    return float(np.median(np.abs(mine - theirs).mean(-1)))


def _seen_by(a: View, b: View) -> tuple[float, Floats, Floats]:
    """Share of a's points that b contradicts; colors (n, 3) in both of the points that b sees too.

    Contradicted: b sees nothing there, or something behind the point; or the point lies outside of b's picture
    though the object does not.
    """
    points, colors, normals = a.sample
    rays = points - b.camera_to_world[:3, 3]
    facing = np.abs((rays * normals).sum(-1)) >= GRAZING * np.linalg.norm(rays, axis=-1)
    facing |= ~normals.any(-1)  # not known
    points, colors, normals = points[facing], colors[facing], normals[facing]
    if len(points) < ENOUGH:
        return 0.0, colors[:0], colors[:0]
    row, column, z, inside = b.project(points)
    row, column, z, colors, normals = row[inside], column[inside], z[inside], colors[inside], normals[inside]
    slack = DEPTH + z / b.focal / 2
    nearest = b.nearest[row, column]
    behind = (nearest > z + slack) & b.solid[row, column] & b.smooth[row, column]  # no mean over what is thin
    wrong = int((np.isinf(nearest) | behind).sum())
    outside = len(points) - len(z) if b.framed else 0
    share = (wrong + outside) / max(ENOUGH, len(z) + outside)
    common = b.solid[row, column] & (np.abs(b.depth[row, column] - z) < slack)
    known = normals.any(-1) & b.normals[row, column].any(-1)
    common &= ~known | ((b.normals[row, column] * normals).sum(-1) > SAME_SIDE)
    return share, colors[common], b.rgba[row[common], column[common], :3] / 255
