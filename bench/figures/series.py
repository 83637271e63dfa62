"""Which color and line a setting has, in every figure of its sweep.

Settings of one base, or of a model trained with several numbers of input views, share a color where a sweep has several
such families of several settings, and there are lines enough to tell them apart: the model is the color, what was
changed in it the line. Elsewhere each setting has its own color.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.analysis.variants import series_over
from bench.figures import style

if TYPE_CHECKING:
    from matplotlib.lines import Line2D

    from bench.analysis.sweep_results import SweepResults

LINES = ("-", "--", "-.", ":")
LONGEST = 60  # characters of a line of a legend


@dataclass(frozen=True)
class Series:
    """How a setting is drawn: the color is its model's, the line its variant's."""

    model: str
    variant: str  # what its label says besides; empty for the model as it is
    color: str
    line: str


def of_sweep(sweep: SweepResults) -> dict[str, Series]:
    """setting → how it is drawn, in the sweep's order."""
    families = {label: str(runs[0].line.get("base")) for label, runs in sweep.groups().items()}
    for model, by_views in series_over(sweep, "views.inputs").items():
        families |= dict.fromkeys(by_views.values(), model)
    names = models_and_variants(families)
    variants = [variant for variant, _ in Counter(variant for _, variant in names.values()).most_common()]
    variants.sort(key=bool)  # a model as it is has the solid line
    models, count = list(dict.fromkeys(model for model, _ in names.values())), len(set(families.values()))
    enough = count == len(models) <= len(style.PALETTE) and len(variants) <= len(LINES)
    if not 1 < count < len(families) or not enough or len(set(names.values())) < len(names):
        return of_labels(list(families))
    colors = style.series_colors(models)
    return {
        label: Series(model, variant, colors[model], LINES[variants.index(variant)])
        for label, (model, variant) in names.items()
    }


def of_labels(labels: Sequence[str]) -> dict[str, Series]:
    """Each label is a model of its own; another line each time the palette starts again."""
    colors = style.series_colors(labels)
    return {
        label: Series(label, "", colors[label], LINES[i // len(style.PALETTE) % len(LINES)])
        for i, label in enumerate(labels)
    }


def models_and_variants(families: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """label → (what the labels of its family have in common, the rest), from label → family."""
    names = {}
    for label, family in families.items():
        parts = label.split(", ")
        others = [other.split(", ") for other, of in families.items() if of == family]
        common = [part for part in parts if all(part in other for other in others)]
        names[label] = (", ".join(common) or family, ", ".join(part for part in parts if part not in common))
    return names


def handles(series: Mapping[str, Series]) -> list[Line2D]:
    """Of a legend: each model in its color and, where there are variants, each one's line in gray."""
    from matplotlib.lines import Line2D

    models = {one.model: one for one in series.values()}
    variants = {one.variant: one.line for one in series.values() if one.variant}
    drawn: list[tuple[str, str, Any]] = [
        (name, one.color, "-" if variants else one.line) for name, one in models.items()
    ]
    drawn += [(name, style.FAINT, line) for name, line in variants.items()]
    return [Line2D([], [], color=c, linestyle=line, label=style.wrap(name, LONGEST)) for name, c, line in drawn]
