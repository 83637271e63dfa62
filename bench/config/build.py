"""Settings → the typed RunSpec; RunSpec → plain dictionaries and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

from bench.common.errors import UserError
from bench.config import spec_fields
from bench.config.convert import TypeMismatch, convert, field_types
from bench.config.merge import State
from bench.config.schema import FromRun, RunSpec
from bench.config.spec_fields import UnknownField
from models.parts import PartSpec, current_names


class MissingField(Exception):
    """A field without a default that nothing sets; the text names it and what it may be."""


class _Field(NamedTuple):
    name: str
    key: str
    kind: Literal["choice", "losses", "section", "leaf"]
    cls: Any
    required: bool


@cache
def _plan(cls: type, prefix: str) -> tuple[_Field, ...]:
    """What to look up for each field of a dataclass at `prefix`."""
    plan = []
    required = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}
    for name, kind in spec_fields.settable(cls).items():
        key = f"{prefix}{name}"
        if key in spec_fields.CHOICES or prefix == "init.":
            plan.append(_Field(name, key, "choice", kind, name in required))
        elif key == "losses":
            plan.append(_Field(name, key, "losses", kind, False))
        else:
            plan.append(_Field(name, key, "section" if is_dataclass(kind) else "leaf", kind, name in required))
    return tuple(plan)


def build(state: State) -> RunSpec:
    """The resolved spec that the settings describe. Raises Missing."""
    spec: RunSpec = _build(RunSpec, "", state)
    return spec


def _build(cls: Any, prefix: str, state: State) -> Any:
    values: dict[str, Any] = {}
    for name, key, kind, inner, required in _plan(cls, prefix):
        if kind == "section":
            values[name] = _build(inner, key + ".", state)
        elif kind == "losses":
            terms = sorted(k for k in state if k.startswith("losses.") and k.count(".") == 1)
            values[name] = {term[7:]: _choice(term, state) for term in terms}
        elif key not in state:
            if required:
                options = f"one of {', '.join(spec_fields.values_of_slot(key))}" if kind == "choice" else "a value"
                raise MissingField(f"{key} is not set: it needs {options}")
        else:
            values[name] = _choice(key, state) if kind == "choice" else state[key].value
    return cls(**values)


def _choice(key: str, state: State) -> Any:
    name = state[key].value
    return name if name == "scratch" else _build(spec_fields.spec_class_of(key, name), key + ".", state)


def to_dict(spec: RunSpec) -> dict[str, Any]:
    """Every field, ready for JSON."""
    plain: dict[str, Any] = _plain(spec)
    return plain


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        named = {"name": value.name} if isinstance(value, PartSpec) else {}
        return named | {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def from_dict(values: Mapping[str, Any]) -> RunSpec:
    """The inverse of `to_dict`; a missing field takes its legacy value or default. Raises UserError for unknown ones."""
    try:
        spec: RunSpec = _load(RunSpec, "", values)
    except (UnknownField, TypeMismatch, KeyError, TypeError) as error:
        raise UserError(f"this is not a resolved spec that this version of EAD-Bench reads: {error}") from error
    return spec


def _load(cls: Any, prefix: str, values: Mapping[str, Any]) -> Any:
    types, values = field_types(cls), current_names(cls, values)
    if unknown := set(values) - set(types) - {"name"}:
        raise UnknownField(f"unknown field {prefix}{sorted(unknown)[0]} (written by a newer version?)")
    made = {f.name: f.metadata["legacy"] for f in fields(cls) if "legacy" in f.metadata}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if name == "name":
            continue
        if key == "losses":
            made[name] = {term: _load_choice(f"losses.{term}", part) for term, part in value.items()}
        elif key in spec_fields.CHOICES or prefix == "init.":
            made[name] = _load_choice(key, value)
        elif is_dataclass(types[name]):
            made[name] = _load(types[name], key + ".", value)
        else:
            made[name] = convert(types[name], value)
    return cls(**made)


def _load_choice(key: str, value: Any) -> Any:
    if value == "scratch":
        return value
    name = value.get("name") or ("run" if "run" in value else "weights")
    cls = spec_fields.spec_class_of(key, name)
    return _load(cls, key + ".", value) if cls is not FromRun else FromRun(**value)
