"""The answer to a sweep's question: each setting minus the reference, and of a grid each field's main effect."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pandas as pd

from bench.analysis import remarks
from bench.analysis.deviations import format_value
from bench.analysis.differences import Difference, Scores, paired_difference
from bench.analysis.formatting import ARROWS, FormattedTable, format_difference, markdown
from bench.analysis.latex import environment, reference, stack
from bench.analysis.sweep_results import SweepResults, SweepRun, protocol_metrics
from bench.analysis.variants import (
    NOT_SWEPT,
    FieldDifference,
    differences_of,
    reference_of,
    short_names,
    swept_settings,
)
from bench.common import labels

FIELDS = "Fields (reference's)"  # a column's heading
PRINTED_METRICS = ("psnr", "ssim", "lpips_vgg")  # all stand in answers.csv
COLUMNS = ["kind", "variant", "reference", "fields", "metric", "better", "difference", "low", "high", "seeds", "scenes",
           "over", "verdict"]  # fmt: skip
METHOD = (
    "95 % intervals. Over seeds: Student's t interval of the seeds' mean differences, paired by seed and scene; it "
    "covers another training seed on these scenes. Over scenes, with one seed: a bootstrap, which covers other scenes "
    "with these very weights, not another training.",
    "decided: the interval over seeds excludes 0. Each verdict is for one comparison: of 20 settings that are as good "
    "as the reference, one is decided by chance.",
)
MAIN_EFFECT = "Main effects: the mean over all pairs of settings that differ in this field alone."
UNSWEPT_FIELD = (
    f"({NOT_SWEPT}): the field differs although the spec does not sweep it; naming another part replaces all of the "
    "part's fields."
)


@dataclass(frozen=True)
class Comparison:
    """One line of the answer: a setting, or a field's value, against the reference's; metric → difference."""

    kind: Literal["variant", "main effect"]
    variant: str
    reference: str
    fields: str
    differences: Mapping[str, Difference | None]


def compare_variants(sweep: SweepResults, protocol: str) -> list[Comparison]:
    """Of the metrics of which more or less is better. Empty for a sweep of one setting."""
    groups = sweep.groups()
    if len(groups) < 2:
        return []
    base, fields = reference_of(sweep), describe_fields(differences_of(sweep))
    metrics = [metric["name"] for metric in protocol_metrics(sweep, protocol) if metric["better"] != "none"]
    scores = {label: {name: scores_of(runs, protocol, name) for name in metrics} for label, runs in groups.items()}
    comparisons = [
        Comparison("variant", label, base, fields[label], _differences([(label, base)], scores, metrics))
        for label in groups
        if label != base
    ]
    for key, value, pairs in main_effects(swept_settings(sweep), base):
        name = short_names([key])[key]
        reference_value = format_value(swept_settings(sweep)[base][key])
        text = f"{name} {format_value(value)}"
        differences = _differences(pairs, scores, metrics)
        comparisons.append(Comparison("main effect", text, f"{name} {reference_value}", key, differences))
    return comparisons


def scores_of(runs: Sequence[SweepRun], protocol: str, metric: str) -> Scores:
    """seed → scene → value, of the runs that were evaluated. Scenes of other data, or of another seed of procedural
    data, are other scenes, whatever their names."""
    scores: dict[int, dict[str, float]] = {}
    for i, run in enumerate(runs):
        data = (run.line.get("spec") or {}).get("data", {})
        source = f"{data.get('name')} {data.get('seed')}"
        scenes = run.folder.evaluations().get(protocol, {}).get("per_scene", {})
        if values := {
            f"{source} {scene}": values[metric] for scene, values in scenes.items() if values.get(metric) is not None
        }:
            scores[i if run.seed is None else run.seed] = values
    return scores


def main_effects(
    settings: Mapping[str, Mapping[str, Any]], base: str
) -> Iterator[tuple[str, Any, list[tuple[str, str]]]]:
    """(field, value, pairs of settings that differ in it alone: with the value, with the reference's); of fields that
    were crossed with others, so that there are several pairs."""
    for key, usual in settings[base].items():
        others = {label: {k: v for k, v in setting.items() if k != key} for label, setting in settings.items()}
        values = [setting[key] for setting in settings.values() if key in setting and setting[key] != usual]
        for value in [value for i, value in enumerate(values) if value not in values[:i]]:
            pairs = [
                (label, other)
                for label in settings
                for other in settings
                if settings[label].get(key) == value and settings[other].get(key) == usual
                and others[label] == others[other]
            ]  # fmt: skip
            if len(pairs) > 1:
                yield key, value, pairs


def describe_fields(differences: Mapping[str, Sequence[FieldDifference]]) -> dict[str, str]:
    """setting → its fields with their values, and in parentheses the reference's."""
    names = short_names(list(dict.fromkeys(d.field for several in differences.values() for d in several)))
    return {label: ", ".join(d.describe(names[d.field]) for d in several) for label, several in differences.items()}


def frame(comparisons: Sequence[Comparison], metrics: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    """One row a comparison and metric: COLUMNS."""
    rows, better = [], {metric["name"]: metric["better"] for metric in metrics}
    for comparison in comparisons:
        for metric, difference in comparison.differences.items():
            if difference is not None:
                values = asdict(difference) | {"difference": difference.mean, "over": difference.over}
                own = {key: value for key, value in asdict(comparison).items() if key != "differences"}
                rows.append(own | values | {"metric": metric, "better": better[metric]})
    return pd.DataFrame(rows, columns=COLUMNS)


def build_answers(sweep: SweepResults, protocol: str) -> FormattedTable | None:
    """None where there is nothing to compare: one setting, or no results."""
    comparisons = compare_variants(sweep, protocol)
    if not any(d for comparison in comparisons for d in comparison.differences.values()):
        return None
    metrics = [metric for metric in protocol_metrics(sweep, protocol) if metric["name"] in PRINTED_METRICS]
    title = "; ".join([f"Differences from {reference_of(sweep)}", remarks.subject(sweep),
                       *remarks.evaluated_on(sweep, protocol)]) + "."  # fmt: skip
    notes = list(METHOD)
    notes += [MAIN_EFFECT] if any(comparison.kind == "main effect" for comparison in comparisons) else []
    notes += [UNSWEPT_FIELD] if any(NOT_SWEPT in comparison.fields for comparison in comparisons) else []
    return FormattedTable(title, cells(comparisons, metrics), notes, [], ("", FIELDS))


def cells(comparisons: Sequence[Comparison], metrics: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    """A row a comparison; a difference with its interval and verdict a metric."""
    lines = []
    for comparison in comparisons:
        main_effect = comparison.kind == "main effect"
        line = {
            "": f"{comparison.variant} − {comparison.reference}" if main_effect else comparison.variant,
            FIELDS: comparison.kind if main_effect else comparison.fields,
        }
        for metric in metrics:
            difference = comparison.differences.get(metric["name"])
            line[f"Δ {metric['heading']}{ARROWS[metric['better']]}"] = _cell(metric["name"], difference)
        known = [difference.over for difference in comparison.differences.values() if difference]
        lines.append(line | {"Interval over": next(iter(known), "")})
    table = pd.DataFrame(lines)
    return table.loc[:, (table != "").any() | (table.columns == "")]


def render(sweep: SweepResults, protocol: str) -> dict[str, str]:
    """{"csv", "md", "tex"}: the answer's text in each format; empty where there is nothing to compare."""
    table = build_answers(sweep, protocol)
    if table is None:
        return {}
    return {
        "csv": frame(compare_variants(sweep, protocol), protocol_metrics(sweep, protocol)).to_csv(index=False),
        "md": markdown(table),
        "tex": latex(table, f"{sweep.name}-{sweep.scale}-answers"),
    }


def latex(table: FormattedTable, name: str) -> str:
    """A verdict stands above its interval."""
    rows = [[_latex_cell(str(cell)) for cell in row] for row in table.cells.itertuples(index=False)]
    texts = [i for i, column in enumerate(table.cells) if column in table.text_columns]
    notes = list(map(labels.latex, table.remarks))
    return environment(
        list(map(str, table.cells)), rows, labels.latex(table.title), notes, reference(name), text_columns=texts
    )


def _latex_cell(cell: str) -> str:
    parts = re.fullmatch(r"(\S+) (\[.*\]) (.+)", cell)
    if not parts:
        return labels.latex(cell)
    return stack(rf"{labels.latex(parts[1])} {parts[3]}", labels.latex(parts[2]))


def _differences(
    pairs: Sequence[tuple[str, str]], scores: Mapping[str, Mapping[str, Scores]], metrics: Sequence[str]
) -> dict[str, Difference | None]:
    return {name: paired_difference([(scores[a][name], scores[b][name]) for a, b in pairs]) for name in metrics}


def _cell(metric: str, difference: Difference | None) -> str:
    """+0.312 [+0.100, +0.524] decided."""
    if difference is None:
        return ""
    low, high = (format_difference(metric, value) for value in (difference.low, difference.high))
    interval = "" if math.isnan(difference.low) else f" [{low}, {high}]"
    return f"{format_difference(metric, difference.mean)}{interval} {difference.verdict}"
