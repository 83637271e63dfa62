"""What a spec sweeps: grid (product), zip (paired), runs (a list), seeds → one point for each combination."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from bench.config.merge import Layer, layer
from bench.config.read import Node, Problems
from bench.config.spec_fields import slot_of

AXES = ("runs", "grid", "zip", "seeds")
NOTHING = Node(None, "")


@dataclass(frozen=True)
class SweepPoint:
    """One combination: the settings that make it, and for one of `runs` its name and base."""

    layer: Layer
    settings: Mapping[str, Any] = field(default_factory=dict)  # swept key → value, as written
    shown_settings: Mapping[str, Any] = field(
        default_factory=dict
    )  # those of them that a label tells: a name tells the rest
    name: str | None = None
    base: Node | None = None


def at_scale(spec: Mapping[str, Node], scale: Mapping[str, Node]) -> dict[str, Node]:
    """The sweep's keys, those named under the scale replacing the spec's: grid key by key, the others whole."""
    merged = {**spec, **scale}
    grids = [
        flatten_keys(level["grid"]) for level in (spec, scale) if isinstance(level.get("grid", NOTHING).value, dict)
    ]
    if len(grids) == 2:
        merged["grid"] = Node(dict(grids[0]) | dict(grids[1]), scale["grid"].where)
    return {key: merged[key] for key in (*AXES, "where") if key in merged}


def points(sweep: Mapping[str, Node], fixed: Sequence[str], problems: Problems) -> list[SweepPoint]:
    """Every combination, `runs` slowest and seeds fastest. A swept key that the command line fixes is no axis."""
    axes: list[list[SweepPoint]] = []
    for key, node in sweep.items():
        if key != "where":
            axes += [axis for axis in AXIS[key](node, problems) if axis]
    axes = [axis for axis in axes if not _fixed(axis, fixed)]
    _refuse_shared(axes, problems)
    return [_joined(combination) for combination in product(*axes)]


def _fixed(axis: Sequence[SweepPoint], fixed: Sequence[str]) -> bool:
    named = any(point.name or point.base for point in axis)
    return not named and all(key in fixed for point in axis for key in point.settings)


def _refuse_shared(axes: Sequence[Sequence[SweepPoint]], problems: Problems) -> None:
    seen: dict[str, tuple[int, str]] = {}
    for index, axis in enumerate(axes):
        for point in axis:
            for key, where in point.layer.keys().items():
                if seen.setdefault(key, (index, where))[0] != index:
                    problems.add(where, f"{key} is swept twice (also at {seen[key][1]})")


def _joined(combination: Sequence[SweepPoint]) -> SweepPoint:
    total, settings, told = Layer(), dict[str, Any](), dict[str, Any]()
    for point in combination:
        total = total + point.layer
        settings |= point.settings
        told |= point.shown_settings
    named = next((point for point in combination if point.name or point.base), SweepPoint(total))
    return SweepPoint(total, settings, told, named.name, named.base)


def _grid(node: Node, problems: Problems) -> Iterator[list[SweepPoint]]:
    for key, values in _lists(node, "grid", problems):
        yield [_point({key: value}, problems) for value in values.value]


def _zip(node: Node, problems: Problems) -> Iterator[list[SweepPoint]]:
    for rows in zipped(node, problems):
        yield [_point(row, problems) for row in rows]


def zipped(node: Node, problems: Problems) -> Iterator[list[dict[str, Node]]]:
    """The rows of each group of lists in step."""
    for group in node.value if isinstance(node.value, list) else [node]:
        columns = dict(_lists(group, "zip", problems))
        lengths = {key: len(values.value) for key, values in columns.items()}
        if len(set(lengths.values())) > 1:
            problems.add(group.where, f"zip pairs lists of one length, not {_words(lengths)}")
        rows = zip(*(values.value for values in columns.values()), strict=False)
        yield [dict(zip(columns, row, strict=True)) for row in rows]


def _lists(node: Node, what: str, problems: Problems) -> Iterator[tuple[str, Node]]:
    if not isinstance(node.value, dict) or not node.value:
        problems.add(node.where, f"{what} maps fields to lists of values, such as `model.encoder.patch: [8, 16]`")
        return
    for key, values in flatten_keys(node):
        if isinstance(values.value, list) and values.value:
            yield key, values
        else:
            problems.add(values.where, f"{what} needs a list of values for {key}")


def _runs(node: Node, problems: Problems) -> Iterator[list[SweepPoint]]:
    if not isinstance(node.value, list) or not all(isinstance(item.value, dict) and item.value for item in node.value):
        problems.add(node.where, "runs is a list, one mapping of settings a run, such as `- base: ours1`")
        return
    entries = []
    for item in node.value:
        rest = {key: child for key, child in item.value.items() if key not in ("name", "base")}
        name, base = item.value.get("name"), item.value.get("base")
        if name and not (isinstance(name.value, str) and name.value):
            problems.add(name.where, "a run's name is text")
        point = _point(rest, problems)
        told = {} if name else point.shown_settings
        entries.append(SweepPoint(point.layer, point.settings, told, str(name.value) if name else None, base))
    yield entries


def _seeds(node: Node, problems: Problems) -> Iterator[list[SweepPoint]]:
    if not isinstance(node.value, list) or not node.value:
        problems.add(node.where, "seeds is a list of whole numbers, such as [0, 1, 2]")
        return
    yield [_point({"seed": seed}, problems) for seed in node.value]


AXIS = {"grid": _grid, "zip": _zip, "runs": _runs, "seeds": _seeds}


def _point(settings: Mapping[str, Node], problems: Problems) -> SweepPoint:
    swept = {key: node.plain() for key, node in flatten_keys(Node(settings, ""), choices_whole=True)}
    return SweepPoint(layer(settings, problems), swept, swept)


def flatten_keys(node: Node, choices_whole: bool = False, before: str = "") -> Iterator[tuple[str, Node]]:
    """Nested maps → dotted keys; a named choice with its fields may stay one value."""
    for word, child in node.value.items():
        key = f"{before}{word}"
        if isinstance(child.value, dict) and child.value and not (choices_whole and slot_of(key) == key):
            yield from flatten_keys(child, choices_whole, key + ".")
        else:
            yield key, child


def _words(lengths: Mapping[str, int]) -> str:
    return ", ".join(f"{key} with {count}" for key, count in lengths.items())
