"""The settings of a sweep by the fields in which they differ from each other, and from its reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.analysis.deviations import format_value
from bench.analysis.sweep_results import SweepResults, flatten
from bench.common.errors import UserError

NOT_SWEPT = "not swept"
Settings = Mapping[str, Any]  # swept key → value, as the spec writes it


@dataclass(frozen=True)
class FieldDifference:
    """A field that both settings have with different values, or that one of them lacks ("–")."""

    field: str
    value: str
    reference: str
    swept: bool  # whether the spec names it, or another part or base that brings it

    def describe(self, name: str) -> str:
        """`name` VALUE (the reference's value)."""
        return f"{name} {self.value} ({self.reference}{'' if self.swept else f'; {NOT_SWEPT}'})"


def reference_of(sweep: SweepResults) -> str:
    """The setting that others are compared with: `reference` of sweep.json, by default the first.

    Raises UserError for one that the sweep does not have.
    """
    label, groups = sweep.sweep.get("reference"), sweep.groups()
    if label is None:
        return next(iter(groups))
    by_label = {run.label: run.group for run in sweep.runs} | {group: group for group in groups}
    if label not in by_label:
        raise UserError(f"{sweep.folder}/sweep.json: reference {label!r} is no run; choose from {', '.join(groups)}")
    return by_label[label]


def series_over(sweep: SweepResults, field: str) -> dict[str, dict[Any, str]]:
    """Name → value of the field → setting, of settings that differ from each other in this field alone; the name is
    what their labels have in common. Without those of which there is one value."""
    series: dict[str, dict[Any, str]] = {}
    for label, fields in sweep.fields.items():
        others = {key: value for key, value in fields.items() if key != field}
        if field in fields:
            series.setdefault(repr(sorted(others.items())), {})[fields[field]] = label
    named = {}
    for by_value in series.values():
        if len(by_value) > 1:
            first, *rest = (label.split(", ") for label in by_value.values())
            common = [part for part in first if all(part in other for other in rest)]
            named[", ".join(common) or "all settings"] = by_value
    return named


def swept_settings(sweep: SweepResults) -> dict[str, dict[str, Any]]:
    """setting → what the spec sweeps for it, without the training seed."""
    return {
        label: {key: value for key, value in runs[0].line.get("settings", {}).items() if key != "seed"}
        for label, runs in sweep.groups().items()
    }


def field_differences(
    fields: Settings, reference: Settings, swept: Sequence[Settings], all_swept: bool = False
) -> list[FieldDifference]:
    """In the reference's order of fields; `swept`: what the spec sets for the one and for the other, `all_swept`:
    whether it names another base, which sets all. A regime sets fields that it does not name.

    Fields that only one of them has are left out: they come with a part, whose name stands for them. Of a loss term
    that only one of them has, the weight is named.
    """
    named = {field for settings in swept for field in _named(settings)}
    removed = dict.fromkeys(f"{key}." for settings in swept for key, value in settings.items() if value is None)
    differences = []
    for field in dict.fromkeys((*reference, *fields)):
        shared = field in fields and field in reference
        alone = (field in named or _is_loss_weight(field)) and not field.startswith(tuple(removed))
        if fields.get(field) != reference.get(field) and (shared or alone):
            by_spec = all_swept or "train.regime" in named or field in named or field.startswith(tuple(removed))
            value, usual = (format_value(side[field]) if field in side else "–" for side in (fields, reference))
            differences.append(FieldDifference(field, value, usual, by_spec))
    for prefix in removed:  # a loss that only one of them has
        has, had = (any(field.startswith(prefix) for field in side) for side in (fields, reference))
        if has != had:
            differences.append(FieldDifference(prefix.rstrip("."), format_value(has), format_value(had), True))
    return differences


def _is_loss_weight(field: str) -> bool:
    return field.startswith("losses.") and field.endswith(".weight")


def _named(swept: Settings) -> Iterator[str]:
    """The resolved fields that swept keys name: `model.head: dpt` names model.head.name, `losses.mse: 2` its weight,
    `init.encoder.run: mine` init.encoder."""
    for key, value in swept.items():
        if key.startswith("init."):
            yield ".".join(key.split(".")[:2])
        of_choice = "weight" if key.startswith("losses.") else "name"
        yield from flatten({key: value}) if isinstance(value, Mapping) else (key, f"{key}.{of_choice}")


def differences_of(sweep: SweepResults) -> dict[str, list[FieldDifference]]:
    """setting → its differences from the reference. Where another base is named, all that it
    brings counts as swept."""
    reference, swept, groups = reference_of(sweep), swept_settings(sweep), sweep.groups()
    base = groups[reference][0].line.get("base")
    differences = {}
    for label, fields in sweep.fields.items():
        other_base = groups[label][0].line.get("base") != base
        settings = [swept[label], swept[reference]]
        differences[label] = field_differences(fields, sweep.fields[reference], settings, other_base)
    return differences


def short_names(fields: Sequence[str]) -> dict[str, str]:
    """The fewest last words that distinguish dotted fields; a part goes by its own word: model.head.name → head; and a
    loss term by its name: losses.mse.weight → mse."""
    plain = {field: field.removesuffix(".name") for field in fields}
    plain |= {field: field.removesuffix(".weight") for field in fields if _is_loss_weight(field)}
    words = {field: name.replace("_", " ").split(".") for field, name in plain.items()}
    names: dict[str, str] = {}
    for count in (1, 2, 3, max(map(len, words.values()), default=0)):
        candidates = {field: " ".join(parts[-count:]) for field, parts in words.items() if field not in names}
        taken = [*names.values(), *candidates.values()]
        names |= {field: name for field, name in candidates.items() if taken.count(name) == 1}
    return {field: names.get(field, field) for field in fields}
