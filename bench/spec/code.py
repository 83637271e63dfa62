"""The code of a run's choices. It is no part of the id, which is the spec's; it is recorded, so that an edit shows."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from bench.spec.schema import RunSpec
from models.parts import PartSpec


def code(spec: RunSpec) -> dict[str, str]:
    """{"models/encoders/conv.py": the first 16 hex digits of its sha256, …} of every named choice."""
    classes = {type(part) for part in _parts(spec)}
    return dict(sorted((_name(cls), _digest(cls)) for cls in classes))


def changed(spec: RunSpec, recorded: Mapping[str, str]) -> list[str]:
    """Files that differ from what a run was trained with."""
    return [name for name, digest in code(spec).items() if recorded.get(name, digest) != digest]


def _parts(value: Any) -> Iterator[PartSpec]:
    if isinstance(value, PartSpec):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from _parts(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _parts(item)


def _name(cls: type) -> str:
    return cls.__module__.replace(".", "/") + ".py"


def _digest(cls: type) -> str:
    return hashlib.sha256(Path(inspect.getfile(cls)).read_bytes()).hexdigest()[:16]
