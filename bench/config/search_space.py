"""What a search proposes: one of a list, a row of zipped lists, or a number from a range."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bench.config import spec_fields
from bench.config.grid import zipped
from bench.config.read import Node, Problems, did_you_mean, flatten
from bench.config.spec_fields import UnknownField, slot_of

RANGES = ("log", "uniform")
DIGITS = 3  # of a number from a range: labels stay short


@dataclass(frozen=True)
class Choices:
    """One of a list; of zipped fields, one row."""

    name: str  # the field, zipped ones joined by " + "
    options: tuple[Mapping[str, Node], ...]
    where: str

    def settings(self, index: int) -> Mapping[str, Node]:
        return self.options[index]

    def map_to_scale(self, index: int, other: Proposed) -> int:
        """The place in another scale's list."""
        return index

    def to_dict(self) -> Any:
        """Ready for JSON."""
        return [{key: node.plain() for key, node in option.items()} for option in self.options]


@dataclass(frozen=True)
class Range:
    """A number between two."""

    name: str
    low: float
    high: float
    log: bool
    whole: bool
    where: str

    @property
    def options(self) -> tuple[Mapping[str, Node], ...]:
        """Its ends, which stand for all when types are checked."""
        return (self.settings(self.low), self.settings(self.high))

    def settings(self, value: Any) -> Mapping[str, Node]:
        return {self.name: Node(int(value) if self.whole else float(value), self.where)}

    def rounded(self, value: float) -> float:
        """Few digits, and inside."""
        return min(max(value if self.whole else float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def map_to_scale(self, value: Any, other: Proposed) -> Any:
        """The same share of the way through another scale's range."""
        assert isinstance(other, Range)
        scale, unscale = (math.log, math.exp) if self.log else (float, float)
        share = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))
        mapped = unscale(scale(other.low) + share * (scale(other.high) - scale(other.low)))
        return other.rounded(round(mapped) if other.whole else mapped)

    def to_dict(self) -> Any:
        """Ready for JSON."""
        return {"low": self.low, "high": self.high, "log": self.log, "whole": self.whole}


Proposed = Choices | Range


def fields(node: Node | None, problems: Problems) -> Iterator[Proposed]:
    """Of `search.fields`: field → list or range."""
    if node is None:
        return
    if not isinstance(node.value, dict):
        problems.add(node.where, "search.fields maps fields to lists or ranges, such as `model.encoder.patch: [4, 8]`")
        return
    for name, child in flatten(node.value, _is_range_or_leaf):
        if isinstance(child.value, list) and child.value:
            yield Choices(name, tuple({name: option} for option in child.value), child.where)
        else:
            yield from _range(name, child, problems)


def zips(node: Node | None, problems: Problems) -> Iterator[Proposed]:
    """Of `search.zip`: each group of lists in step is one choice."""
    for rows in zipped(node, problems) if node else ():
        if rows:
            yield Choices(" + ".join(rows[0]), tuple(rows), next(iter(rows[0].values())).where)


def _range(name: str, node: Node, problems: Problems) -> Iterator[Range]:
    kind = next(iter(node.value), "") if isinstance(node.value, dict) and len(node.value) == 1 else ""
    if kind not in RANGES:
        text = f"{name} is searched in a list of values, {{log: [low, high]}} or {{uniform: [low, high]}}"
        problems.add(node.where, text + did_you_mean(kind, RANGES))
        return
    ends, whole = node.value[kind].plain(), _takes_whole(name)
    numbers = isinstance(ends, list) and len(ends) == 2 and all(type(end) in (int, float) for end in ends)
    if not numbers or not ends[0] < ends[1] or (kind == "log" and ends[0] <= 0):
        least = ", both above 0" if kind == "log" else ""
        problems.add(node.where, f"{name}: {kind} takes two numbers, the lower first{least}: {{{kind}: [low, high]}}")
    elif whole and any(end != int(end) for end in ends):
        problems.add(node.where, f"{name} takes whole numbers: {ends} are none")
    else:
        yield Range(name, float(ends[0]), float(ends[1]), kind == "log", whole, node.where)


def _takes_whole(name: str) -> bool:
    """Whether the field, in whichever part has it, holds whole numbers; unknown fields are reported elsewhere."""
    choice = slot_of(name)
    for part in spec_fields.values_of_slot(choice) if choice else (None,):
        try:
            return spec_fields.field_type(name, part) is int
        except UnknownField:
            continue
    return False


def _is_range_or_leaf(key: str, node: Node) -> bool:
    """Whether a mapping under `search.fields` is a range, or stands where a field can hold none."""
    try:
        return bool(set(node.value) & set(RANGES)) or (slot_of(key) is None and bool(spec_fields.field_type(key, None)))
    except UnknownField:
        return False
