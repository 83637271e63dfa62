"""Settings in layers, later ones winning; inside one layer names apply before fields.

part defaults < regime < base < part's sizes at the scale < base's and spec's `scales` < `set` < grid, zip, runs
< command line
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from functools import cache
from typing import Any, NamedTuple

from bench.common.errors import ConfigError
from bench.common.paths import SOURCE
from bench.config import spec_fields
from bench.config.convert import TypeMismatch, convert, field_types
from bench.config.read import Node, Problems, did_you_mean, flatten, to_node
from bench.config.schema import REGIMES, RunSpec, is_run_path
from bench.config.spec_fields import UnknownField, slot_of
from models.published import LAYOUTS

SCALES = ("tiny", "small", "paper")
INIT_FIELDS = ("weights", "sha256", "run", "shipped")


class Setting(NamedTuple):
    """One value, converted, and where it was given. At a named choice's key the value is the name."""

    value: Any
    where: str


State = dict[str, Setting]


@dataclass(frozen=True)
class Layer:
    """Settings that apply together. A name of None drops a loss term."""

    names: list[tuple[str, str | None, str]] = field(default_factory=list)  # (choice, name, where)
    fields: list[tuple[str, Node]] = field(default_factory=list)  # (key, scalar or list)

    def places(self) -> dict[str, str]:
        """Every key that is set → where."""
        return {key: where for key, _, where in self.names} | {key: node.where for key, node in self.fields}

    def __add__(self, other: Layer) -> Layer:
        return Layer(self.names + other.names, self.fields + other.fields)


def layer(settings: Mapping[str, Node], problems: Problems) -> Layer:
    """One layer from dotted keys and nested maps alike; an unknown name and a key given twice are problems."""
    result, seen = Layer(), dict[str, str]()
    for key, node in flatten(settings):
        choice = slot_of(key)
        if choice and key == f"{choice}.name" and not key.startswith(("losses.", "init.")):
            key = choice
        if key in seen:
            problems.add(node.where, f"{key} is given twice (first at {seen[key]})")
        seen.setdefault(key, node.where)
        try:
            _add(result, key, choice, node)
        except UnknownField as error:
            problems.add(node.where, str(error))
    return result


def _add(result: Layer, key: str, choice: str | None, node: Node) -> None:
    """Lay one key into a layer, `choice` being the named choice that it is or lies in. Raises UnknownField."""
    value, where = node.plain(), node.where
    if choice is None:
        result.fields.append((key, node))
    elif choice.startswith("losses."):
        term = choice.partition(".")[2]
        spec_fields.spec_class_of(choice, term)
        result.names.append((choice, None if key == choice and value is None else term, where))
        if key != choice:
            result.fields.append((key, node))
        elif value is not None and value != {}:
            result.fields.append((f"{choice}.weight", node))
    elif choice.startswith("init."):
        kind = value if key == choice else key[len(choice) + 1 :]
        spec_fields.spec_class_of(choice, "scratch")
        if key == choice and value != "scratch":
            options = "scratch, {weights: FILE, sha256: …}, {run: NAME} or {shipped: NAME}"
            raise UnknownField(f"{choice}: expected {options}")
        if key != choice and kind not in INIT_FIELDS:
            hint = did_you_mean(str(kind), INIT_FIELDS)
            raise UnknownField(f"no field {key}{hint}; {choice} has {', '.join(INIT_FIELDS)}")
        if kind in spec_fields.INITS:
            result.names.append((choice, str(kind), where))
        if key != choice:
            result.fields.append((key, node))
    elif key == choice:
        if not isinstance(value, str):
            raise UnknownField(f"{choice}: expected a name: {', '.join(spec_fields.values_of_slot(choice))}")
        spec_fields.spec_class_of(choice, value)
        result.names.append((choice, value, where))
    else:
        result.fields.append((key, node))


def apply(state: State, settings: Layer, scale: str | None, problems: Problems) -> None:
    """Lay one layer over `state`, in place. With a scale, a newly named part comes at its size there."""
    for choice, name, where in settings.names:
        is_same_part = name is not None and choice in state and state[choice].value == name
        if not is_same_part:
            for key in [key for key in state if key == choice or key.startswith(choice + ".")]:
                del state[key]
        if name is not None:
            state[choice] = Setting(name, where)
            if scale and not is_same_part:
                apply(state, _sizes(spec_fields.spec_class_of(choice, name), choice, scale), None, problems)
    for key, node in settings.fields:
        choice_name = state.get(slot_of(key) or "")
        try:
            kind = spec_fields.field_type(key, choice_name.value if choice_name else None)
            state[key] = Setting(convert(kind, node.plain(), node.text), node.where)
        except UnknownField as error:
            problems.add(node.where, str(error))
        except TypeMismatch as error:
            problems.add(node.where, f"{key}: {error}")


def apply_where_present(state: State, settings: Layer, scale: str, problems: Problems) -> dict[str, str]:
    """Lay the command line over `state`; returns the overrides of fields that this run's parts lack, with messages."""
    apply(state, Layer([name for name in settings.names if not name[0].startswith("init.")]), scale, problems)
    absent = _unloadable(state, settings)
    inits = [name for name in settings.names if name[0].startswith("init.") and name[2] not in absent]
    apply(state, Layer(inits), scale, problems)
    for key, node in settings.fields:
        if node.where in absent:
            continue
        if choice := slot_of(key):
            try:
                spec_fields.field_type(key, state[choice].value if choice in state else None)
            except UnknownField as error:
                absent[node.where] = str(error)
                continue
        apply(state, Layer(fields=[(key, node)]), scale, problems)
    return absent


def _unloadable(state: State, settings: Layer) -> dict[str, str]:
    """Overrides that give a part a published checkpoint of which none is known; other runs' parts may have one."""
    messages = {}
    for key, node in settings.fields:
        part = key.removeprefix("init.").removesuffix(".weights")
        name = state.get(f"model.{part}")
        if key != f"init.{part}.weights" or name is None or not isinstance(node.value, str) or is_run_path(node.value):
            continue
        if (part, name.value) not in LAYOUTS:
            known = ", ".join(f"{part} {name}" for part, name in LAYOUTS)
            messages[node.where] = f"init.{part}: no checkpoint of {part} {name.value} is known, only of {known}"
    return messages


def apply_sizes(state: State, scale: str, problems: Problems) -> None:
    """The sizes that sections and the parts chosen so far declare for a scale."""
    for section, cls in field_types(RunSpec).items():
        if isinstance(cls, type) and is_dataclass(cls) and section not in spec_fields.CHOICES:
            apply(state, _sizes(cls, section, scale), scale, problems)
    for choice in [key for key in state if slot_of(key) == key]:
        apply(state, _sizes(spec_fields.spec_class_of(choice, state[choice].value), choice, scale), scale, problems)


def apply_regime(state: State) -> None:
    """Fill in, in place, what the run's regime says of fields that nothing sets."""
    if chosen := state.get("train.regime"):
        for key, value in REGIMES[chosen.value].items():
            state.setdefault(key, Setting(value, chosen.where))


@cache
def _sizes(cls: type, prefix: str, scale: str) -> Layer:
    sizes: Mapping[str, Mapping[str, object]] = getattr(cls, "sizes", {})
    if not sizes.get(scale):
        return Layer()
    where, problems = f"{os.path.relpath(inspect.getfile(cls), SOURCE)}: {cls.__qualname__}.sizes", Problems()
    settings = layer({prefix: to_node(sizes[scale], where)}, problems)
    if problems:
        raise ConfigError(problems)
    return settings
