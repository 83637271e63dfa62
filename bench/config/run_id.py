"""A run's id: a hash of what decides it, the same on every machine and under every later version."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import Field, fields, is_dataclass
from functools import cache
from typing import Any

from bench.config.convert import field_types
from bench.config.schema import RunSpec
from models.parts import PartSpec

_NO_LEGACY = object()


def run_id(spec: RunSpec) -> str:
    """The first 12 hex digits of the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical_json(spec).encode()).hexdigest()[:12]


def canonical_json(spec: RunSpec) -> str:
    """Keys sorted, no white space, floats by repr; without fields marked `identity: False` or at their legacy value."""
    return json.dumps(_canonical(spec), sort_keys=True, separators=(",", ":"), allow_nan=False)


@cache
def _identifying(cls: type) -> tuple[tuple[Field[Any], Any, Any], ...]:
    """(field, legacy value, type) of the fields that decide what a run is; bool for those that need only be given."""
    types = field_types(cls)
    return tuple(
        (f, f.metadata.get("legacy", _NO_LEGACY), bool if f.metadata.get("identity") == "given" else types[f.name])
        for f in fields(cls)
        if f.metadata.get("identity", True)
    )


def _canonical(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        made: dict[str, Any] = {"name": value.name} if isinstance(value, PartSpec) else {}
        for field, legacy, kind in _identifying(type(value)):
            item = getattr(value, field.name)
            if item != legacy:
                for former, now in field.metadata.get("former_values", {}).items():
                    item = former if item == now else item
                name = field.metadata.get("former_name", field.name)  # a field renamed keeps its name in the hash
                made[name] = kind(item) if kind in (float, bool) else _canonical(item)
        return made
    if isinstance(value, Mapping):
        return {key: _canonical(item) for key, item in value.items()}
    return [_canonical(item) for item in value] if isinstance(value, list | tuple) else value
