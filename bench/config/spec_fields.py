"""Where a dotted key such as `model.encoder.patch` leads: to a named choice, or to a field with a type."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from functools import cache
from typing import Any

from bench.config.convert import field_types
from bench.config.read import did_you_mean
from bench.config.schema import FromRun, InitSpec, RunSpec, Shipped, WeightsFile
from bench.data.view_selection import ViewSelection
from bench.losses import LossSpec
from models import parts

CHOICES: Mapping[str, str] = {  # the key of a named choice → the package whose files are its values
    "model.encoder": "models.encoders",
    "model.aggregator": "models.aggregators",
    "model.head": "models.heads",
    "model.output": "models.outputs",
    "data": "bench.data.sources",
    "views.choice": "bench.data.view_selection",
}
LOSSES = "bench.losses"  # losses.NAME: the key is the choice
DERIVED_FROM: Mapping[str, type[parts.PartSpec]] = {  # package → what the class Spec of its files derives from
    "models.encoders": parts.EncoderSpec,
    "models.aggregators": parts.AggregatorSpec,
    "models.heads": parts.HeadSpec,
    "models.outputs": parts.OutputSpec,
    "bench.data.sources": parts.PartSpec,
    "bench.data.view_selection": ViewSelection,
    LOSSES: LossSpec,
}


class UnknownField(Exception):
    """The key leads nowhere; the text says where it went astray and what there is."""


@dataclass(frozen=True)
class Scratch:
    """`init.PART: scratch`: no fields."""


INITS: Mapping[str, type] = {"scratch": Scratch, "weights": WeightsFile, "run": FromRun, "shipped": Shipped}


@cache
def slot_of(key: str) -> str | None:
    """The named choice that `key` is, or lies in: slot_of("model.encoder.patch") → "model.encoder"."""
    words = key.split(".")
    if words[0] in ("losses", "init"):
        return ".".join(words[:2]) if len(words) > 1 else None
    return next((path for path in CHOICES if key == path or key.startswith(path + ".")), None)


def values_of_slot(choice: str) -> tuple[str, ...]:
    """The values of a named choice."""
    if choice.startswith("losses."):
        return tuple(name for name in parts.available(LOSSES) if name == choice.partition(".")[2])
    return tuple(INITS) if choice.startswith("init.") else parts.available(CHOICES[choice])


@cache
def spec_class_of(choice: str, name: str) -> type:
    """The dataclass that holds the fields of a named choice's value. Raises UnknownField."""
    if choice.startswith("init."):
        part, options = choice.partition(".")[2], list(field_types(InitSpec))
        if part not in options:
            raise UnknownField(f"no field {choice}{did_you_mean(part, options)}; init has {', '.join(options)}")
        return INITS[name]
    package, owner = (LOSSES, "losses") if choice.startswith("losses.") else (CHOICES[choice], choice)
    known = parts.available(package)
    if name not in known:
        raise UnknownField(f"{owner} has no choice {name!r}{did_you_mean(name, known)}; it may be {', '.join(known)}")
    file = f"{package.replace('.', '/')}/{name}.py"
    try:
        cls = parts.spec_class(package, name)
    except AttributeError as error:
        if error.name != "Spec":
            raise UnknownField(_broken(file, error)) from error
        raise UnknownField(f"{file} has no class Spec, so it cannot be chosen") from error
    except Exception as error:  # whatever importing a file of the user's may raise
        raise UnknownField(_broken(file, error)) from error
    if "__dataclass_fields__" not in vars(cls):
        raise UnknownField(f"{file}: its class Spec needs @dataclass(frozen=True) above it")
    if not issubclass(cls, base := DERIVED_FROM[package]):
        raise UnknownField(f"{file}: its class Spec must derive from {base.__name__} of {base.__module__}")
    if lacking := sorted(getattr(cls, "__abstractmethods__", ())):
        raise UnknownField(f"{file}: its class Spec lacks {', '.join(lacking)} (models/parts.py says what they give)")
    return cls


def _broken(file: str, error: Exception) -> str:
    """Where importing the file failed, and why."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {error.msg}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(file)]
    return f"{file}{f':{lines[-1]}' if lines else ''}: {type(error).__name__}: {error}"


@cache
def field_type(key: str, name: str | None) -> Any:
    """The type of the field at `key`, the choice on the way there being `name`. Raises UnknownField."""
    choice = slot_of(key)
    if choice is None:
        return _field(RunSpec, key, "", owner="")
    if name is None:
        raise UnknownField(f"{key} belongs to {choice}, which nothing names: write `{choice}: NAME` first")
    return _field(spec_class_of(choice, name), key[len(choice) + 1 :], choice, owner=f"{choice} {name}")


def _field(cls: type, key: str, prefix: str, owner: str) -> Any:
    kind: Any = cls
    for word in key.split("."):
        types = field_types(kind) if isinstance(kind, type) and is_dataclass(kind) else {}
        if word not in types:
            full, container = f"{prefix}.{word}".lstrip("."), owner or prefix
            options = f"{container or 'a spec'} has {', '.join(types)}" if types else f"{container} has no fields"
            raise UnknownField(f"no field {full}{did_you_mean(word, list(types))}; {options}")
        kind, prefix, owner = types[word], f"{prefix}.{word}".lstrip("."), ""
    if is_dataclass(kind) or key == "losses":
        names = parts.available(LOSSES) if key == "losses" else field_types(kind)
        raise UnknownField(f"{key} is a section, set its fields: {', '.join(names)}")
    return kind
