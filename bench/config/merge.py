"""Settings in layers, later ones winning; inside one layer names apply before fields.

part defaults < base < part's sizes at the scale < base's and spec's `scales` < `set` < grid, zip, runs < command line
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from functools import cache
from typing import Any, NamedTuple

from bench.common.errors import ConfigError
from bench.common.paths import SOURCE
from bench.config import spec_fields
from bench.config.convert import TypeMismatch, convert
from bench.config.read import (
    Node,
    Problems,
    did_you_mean,
    to_node,
)
from bench.config.schema import RunSpec, is_run_path
from bench.config.spec_fields import UnknownField, slot_of
from models.published import LAYOUTS

SCALES = ("tiny", "small", "paper")


class Setting(NamedTuple):
    """One value, converted, and where it was given. At a named choice's key the value is the name."""

    value: Any
    where: str


State = dict[str, Setting]


@dataclass(frozen=True)
class Layer:
    """Settings that apply together. A name of None drops a loss term."""

    names: list[tuple[str, str | None, str]] = field(default_factory=list)  # (choice, name, where)
    fields: list[tuple[str, Any, str]] = field(default_factory=list)  # (key, plain value, where)

    def keys(self) -> dict[str, str]:
        """Every key that is set → where."""
        return {key: where for key, _, where in (*self.names, *self.fields)}

    def __add__(self, other: Layer) -> Layer:
        return Layer(self.names + other.names, self.fields + other.fields)


def layer(settings: Mapping[str, Node], problems: Problems) -> Layer:
    """One layer from dotted keys and nested maps alike; an unknown name and a key given twice are problems."""
    made, seen = Layer(), dict[str, str]()
    for key, node in _flat(settings):
        if key in seen:
            problems.add(node.where, f"{key} is given twice (first at {seen[key]})")
        seen.setdefault(key, node.where)
        try:
            _add(made, key, node)
        except UnknownField as error:
            problems.add(node.where, str(error))
    return made


def _flat(settings: Mapping[str, Node], before: str = "") -> Iterator[tuple[str, Node]]:
    for word, node in settings.items():
        key = f"{before}.{word}" if before else word
        if isinstance(node.value, dict) and node.value:
            yield from _flat(node.value, key)
        else:
            choice = slot_of(key)
            named = key == f"{choice}.name" and not key.startswith(("losses.", "init."))
            yield (choice or key) if named else key, node


def _add(made: Layer, key: str, node: Node) -> None:
    choice, value, where = slot_of(key), node.plain(), node.where
    if choice is None:
        made.fields.append((key, value, where))
    elif choice.startswith("losses."):
        term = choice.partition(".")[2]
        spec_fields.spec_class_of(choice, term)
        made.names.append((choice, None if key == choice and value is None else term, where))
        if key != choice:
            made.fields.append((key, value, where))
        elif value is not None and value != {}:
            made.fields.append((f"{choice}.weight", value, where))
    elif choice.startswith("init."):
        kind = value if key == choice else key[len(choice) + 1 :]
        spec_fields.spec_class_of(choice, "scratch")
        if key == choice and value != "scratch":
            raise UnknownField(f"{choice}: expected scratch, {{weights: FILE, sha256: …}} or {{run: NAME}}")
        if key != choice and kind not in (fields := ("weights", "sha256", "run")):
            raise UnknownField(f"no field {key}{did_you_mean(str(kind), fields)}; {choice} has {', '.join(fields)}")
        if kind in spec_fields.INITS:
            made.names.append((choice, str(kind), where))
        if key != choice:
            made.fields.append((key, value, where))
    elif key == choice:
        if not isinstance(value, str):
            raise UnknownField(f"{choice}: expected a name: {', '.join(spec_fields.values_of_slot(choice))}")
        spec_fields.spec_class_of(choice, value)
        made.names.append((choice, value, where))
    else:
        made.fields.append((key, value, where))


def apply(state: State, made: Layer, scale: str | None, problems: Problems) -> None:
    """Lay one layer over `state`, in place. With a scale, a newly named part comes at its size there."""
    for choice, name, where in made.names:
        if name is None:
            _drop(state, choice)
        elif choice in state and state[choice].value == name:
            state[choice] = Setting(name, where)
        else:
            _drop(state, choice)
            state[choice] = Setting(name, where)
            if scale:
                apply(state, _sizes(spec_fields.spec_class_of(choice, name), choice, scale), None, problems)
    for key, value, where in made.fields:
        named = state.get(slot_of(key) or "")
        try:
            state[key] = Setting(convert(spec_fields.field_type(key, named.value if named else None), value), where)
        except UnknownField as error:
            problems.add(where, str(error))
        except TypeMismatch as error:
            problems.add(where, f"{key}: {error}")


def apply_where_present(state: State, made: Layer, scale: str, problems: Problems) -> dict[str, str]:
    """Lay the command line over `state`; returns the overrides of fields that this run's parts lack, with messages."""
    apply(state, Layer(names=[name for name in made.names if not name[0].startswith("init.")]), scale, problems)
    absent = _unloadable(state, made)
    apply(state, Layer(names=[name for name in made.names if name[0].startswith("init.") and name[2] not in absent]),
          scale, problems)  # fmt: skip
    for key, value, where in made.fields:
        if where in absent:
            continue
        if choice := slot_of(key):
            try:
                spec_fields.field_type(key, state[choice].value if choice in state else None)
            except UnknownField as error:
                absent[where] = str(error)
                continue
        apply(state, Layer(fields=[(key, value, where)]), scale, problems)
    return absent


def _unloadable(state: State, made: Layer) -> dict[str, str]:
    """Overrides that give a part a published checkpoint of which none is known; other runs' parts may have one."""
    found = {}
    for key, value, where in made.fields:
        part = key.removeprefix("init.").removesuffix(".weights")
        named = state.get(f"model.{part}")
        if key != f"init.{part}.weights" or named is None or not isinstance(value, str) or is_run_path(value):
            continue
        if (part, named.value) not in LAYOUTS:
            known = " and ".join(f"{part} {name}" for part, name in LAYOUTS)
            found[where] = f"init.{part}: no checkpoint of {part} {named.value} is known, only of {known}"
    return found


def apply_sizes(state: State, scale: str, problems: Problems) -> None:
    """The sizes that sections and the parts chosen so far declare for a scale."""
    for section, cls in spec_fields.settable(RunSpec).items():
        if isinstance(cls, type) and is_dataclass(cls) and section not in spec_fields.CHOICES:
            apply(state, _sizes(cls, section, scale), scale, problems)
    for choice in [key for key in state if slot_of(key) == key]:
        apply(state, _sizes(spec_fields.spec_class_of(choice, state[choice].value), choice, scale), scale, problems)


@cache
def _sizes(cls: type, prefix: str, scale: str) -> Layer:
    sizes: Mapping[str, Mapping[str, object]] = getattr(cls, "sizes", {})
    if not sizes.get(scale):
        return Layer()
    where, problems = f"{os.path.relpath(inspect.getfile(cls), SOURCE)}: {cls.__qualname__}.sizes", Problems()
    made = layer({prefix: to_node(sizes[scale], where)}, problems)
    if problems:
        raise ConfigError(problems)
    return made


def _drop(state: State, choice: str) -> None:
    for key in [key for key in state if key == choice or key.startswith(choice + ".")]:
        del state[key]
