"""Settings → the typed RunSpec; RunSpec → plain dictionaries and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from functools import cache
from typing import Any, Literal, NamedTuple

from bench.common.errors import UserError
from bench.config import spec_fields
from bench.config.convert import TypeMismatch, convert, field_types
from bench.config.merge import State
from bench.config.schema import FromRun, RunSpec, Shipped
from bench.config.spec_fields import UnknownField
from models import pretrained
from models.parts import PartSpec, current_names

ABSENT = object()  # equal to no value


class MissingField(Exception):
    """A field without a default that nothing sets; the text names it and what it may be."""


class FieldPlan(NamedTuple):
    """How one field of a dataclass is filled from settings."""

    name: str
    key: str  # dotted from the root
    kind: Literal["choice", "losses", "section", "leaf"]
    cls: Any
    required: bool


@cache
def _plan(cls: type, prefix: str) -> tuple[FieldPlan, ...]:
    """The fields of a dataclass at `prefix`."""
    plan = []
    required = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}
    for name, type_ in field_types(cls).items():
        key, kind = f"{prefix}{name}", "section" if is_dataclass(type_) else "leaf"
        if key in spec_fields.CHOICES or prefix == "init.":
            kind = "choice"
        elif key == "losses":
            kind = "losses"
        plan.append(FieldPlan(name, key, kind, type_, name in required and kind != "losses"))  # type: ignore[arg-type]
    return tuple(plan)


def build(state: State, cls: Any = RunSpec, prefix: str = "") -> Any:
    """The resolved RunSpec that the settings describe (or a section of it). Raises MissingField."""
    values: dict[str, Any] = {}
    for name, key, kind, inner, required in _plan(cls, prefix):
        if kind == "section":
            values[name] = build(state, inner, key + ".")
        elif kind == "losses":
            terms = sorted(k for k in state if k.startswith("losses.") and k.count(".") == 1)
            values[name] = {term.partition(".")[2]: _build_choice(term, state) for term in terms}
        elif key in state:
            values[name] = _build_choice(key, state) if kind == "choice" else state[key].value
        elif required:
            options = f"one of {', '.join(spec_fields.values_of_slot(key))}" if kind == "choice" else "a value"
            raise MissingField(f"{key} is not set: it needs {options}")
    return cls(**values)


def _build_choice(key: str, state: State) -> Any:
    name = state[key].value
    if name == "scratch":
        return name
    choice = build(state, spec_fields.spec_class_of(key, name), key + ".")
    if isinstance(choice, Shipped) and choice.shipped in pretrained.names():
        return replace(choice, sha256=pretrained.card(choice.shipped).sha256)
    return choice


def to_dict(spec: RunSpec) -> dict[str, Any]:
    """Every field, ready for JSON."""
    values: dict[str, Any] = serialize(spec)
    return values


def serialize(value: Any, identity: bool = False) -> Any:
    """Dataclasses → dictionaries, a part's with its name, tuples → lists; for a run's `identity`, as its id hashes it.

    That leaves out fields that decide nothing or are at the value they had before they existed, keeps the names that
    fields and values had when they were first hashed, and writes floats as floats.
    """
    if is_dataclass(value) and not isinstance(value, type):
        plain: dict[str, Any] = {"name": value.name} if isinstance(value, PartSpec) else {}
        for field, legacy, kind in (
            _identifying(type(value)) if identity else [(f, ABSENT, None) for f in fields(value)]
        ):
            item = getattr(value, field.name)
            if identity:
                if item == legacy:
                    continue
                former = {now: before for before, now in field.metadata.get("former_values", {}).items()}
                item = former.get(item, item) if former else item
            name = field.metadata.get("former_name", field.name) if identity else field.name
            plain[name] = kind(item) if kind in (float, bool) else serialize(item, identity)
        return plain
    if isinstance(value, Mapping):
        return {key: serialize(item, identity) for key, item in value.items()}
    return [serialize(item, identity) for item in value] if isinstance(value, list | tuple) else value


@cache
def _identifying(cls: type) -> tuple[tuple[Field[Any], Any, Any], ...]:
    """(field, legacy value, type) of the fields that decide what a run is; bool for those that need only be given."""
    types = field_types(cls)
    return tuple(
        (f, f.metadata.get("legacy", ABSENT), bool if f.metadata.get("identity") == "given" else types[f.name])
        for f in fields(cls)
        if f.metadata.get("identity", True)
    )


def from_dict(values: Mapping[str, Any]) -> RunSpec:
    """The inverse of `to_dict`; a missing field takes its legacy value or default. Raises UserError for others."""
    try:
        spec: RunSpec = _load(RunSpec, "", values)
    except (UnknownField, TypeMismatch, KeyError, TypeError) as error:
        raise UserError(f"this is not a resolved spec that this version of EAD-Bench reads: {error}") from error
    return spec


def _load(cls: Any, prefix: str, values: Mapping[str, Any]) -> Any:
    types, values = field_types(cls), current_names(cls, values)
    if unknown := set(values) - set(types) - {"name"}:
        raise UnknownField(f"unknown field {prefix}{sorted(unknown)[0]} (written by a newer version?)")
    arguments = {f.name: f.metadata["legacy"] for f in fields(cls) if "legacy" in f.metadata}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if name == "name":
            continue
        if key == "losses":
            arguments[name] = {term: _load_choice(f"losses.{term}", part) for term, part in value.items()}
        elif key in spec_fields.CHOICES or prefix == "init.":
            arguments[name] = _load_choice(key, value)
        elif is_dataclass(types[name]):
            arguments[name] = _load(types[name], key + ".", value)
        else:
            arguments[name] = convert(types[name], value)
    return cls(**arguments)


def _load_choice(key: str, value: Any) -> Any:
    if value == "scratch":
        return value
    name = value.get("name") or next(kind for kind in spec_fields.INITS if kind in value)
    cls = spec_fields.spec_class_of(key, name)
    return _load(cls, key + ".", value) if cls is not FromRun else FromRun(**value)
