"""What a spec sweeps: grid (product), zip (paired), runs (a list), seeds → one point for each combination."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from bench.config.merge import Layer, layer
from bench.config.read import Node, Problems, flatten
from bench.config.spec_fields import slot_of

AXES = ("runs", "grid", "zip", "seeds")


@dataclass(frozen=True)
class SweepPoint:
    """One combination: the settings that make it, and for one of `runs` its name and base."""

    layer: Layer
    settings: Mapping[str, Any] = field(default_factory=dict)  # swept key → value, as written
    label_settings: Mapping[str, Any] = field(default_factory=dict)  # those in the label; a name stands for all
    name: str | None = None
    base: Node | None = None


def at_scale(spec: Mapping[str, Node], scale: Mapping[str, Node]) -> dict[str, Node]:
    """The sweep's keys, those named under the scale replacing the spec's: grid key by key, the others whole."""
    merged = {**spec, **scale}
    grids = [level["grid"].value for level in (spec, scale) if "grid" in level]
    if len(grids) == 2 and all(isinstance(grid, dict) for grid in grids):
        merged["grid"] = Node(dict(flatten(grids[0])) | dict(flatten(grids[1])), scale["grid"].where)
    return {key: merged[key] for key in (*AXES, "where") if key in merged}


def points(sweep: Mapping[str, Node], fixed: Collection[str], problems: Problems) -> list[SweepPoint]:
    """Every combination, `runs` slowest and seeds fastest. A swept key that the command line fixes is no axis."""
    axes: list[list[SweepPoint]] = []
    for name, node in sweep.items():
        for axis in AXIS[name](node, problems) if name in AXIS else ():
            is_named = any(point.name or point.base for point in axis)
            if axis and (is_named or not all(key in fixed for point in axis for key in point.settings)):
                axes.append(axis)
    first: dict[str, tuple[int, str]] = {}
    for index, axis in enumerate(axes):
        for key, where in ((key, where) for point in axis for key, where in point.layer.places().items()):
            if first.setdefault(key, (index, where))[0] != index:
                problems.add(where, f"{key} is swept twice (also at {first[key][1]})")
    combinations = []
    for combination in product(*axes):
        joined = SweepPoint(Layer())
        for point in combination:
            joined = SweepPoint(
                joined.layer + point.layer,
                {**joined.settings, **point.settings},
                {**joined.label_settings, **point.label_settings},
                joined.name or point.name,
                joined.base or point.base,
            )
        combinations.append(joined)
    return combinations


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
            lists = ", ".join(f"{key} with {count}" for key, count in lengths.items())
            problems.add(group.where, f"zip pairs lists of one length, not {lists}")
        rows = zip(*(values.value for values in columns.values()), strict=False)
        yield [dict(zip(columns, row, strict=True)) for row in rows]


def _lists(node: Node, axis: str, problems: Problems) -> Iterator[tuple[str, Node]]:
    if not isinstance(node.value, dict) or not node.value:
        problems.add(node.where, f"{axis} maps fields to lists of values, such as `model.encoder.patch: [8, 16]`")
        return
    for key, values in flatten(node.value):
        if isinstance(values.value, list) and values.value:
            yield key, values
        else:
            problems.add(values.where, f"{axis} needs a list of values for {key}")


def _runs(node: Node, problems: Problems) -> Iterator[list[SweepPoint]]:
    if not isinstance(node.value, list) or not all(isinstance(item.value, dict) and item.value for item in node.value):
        problems.add(node.where, "runs is a list, one mapping of settings a run, such as `- base: ours1`")
        return
    axis = []
    for item in node.value:
        point = _point({key: child for key, child in item.value.items() if key not in ("name", "base")}, problems)
        name, base = item.value.get("name"), item.value.get("base")
        text = (name.text or name.value) if name else None
        if name and not (isinstance(text, str) and text.strip()):
            problems.add(name.where, "a run's name is text")
            text = None
        axis.append(SweepPoint(point.layer, point.settings, {} if text else point.settings, text, base))
    yield axis


def _seeds(node: Node, problems: Problems) -> Iterator[list[SweepPoint]]:
    if not isinstance(node.value, list) or not node.value:
        problems.add(node.where, "seeds is a list of whole numbers, such as [0, 1, 2]")
        return
    yield [_point({"seed": seed}, problems) for seed in node.value]


AXIS = {"grid": _grid, "zip": _zip, "runs": _runs, "seeds": _seeds}


def _point(settings: Mapping[str, Node], problems: Problems) -> SweepPoint:
    swept = {key: node.plain() for key, node in flatten(settings, is_whole_choice)}
    return SweepPoint(layer(settings, problems), swept, swept)


def is_whole_choice(key: str, _node: Node) -> bool:
    """Whether `key` is a named choice, which with its fields may stay one value."""
    return slot_of(key) == key
