"""A value as YAML gives it → the type that a field declares, or a sentence saying what was expected."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from bench.config.read import did_you_mean

EXPECTED = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}
LARGEST = 2**53  # beyond it a whole number does not survive JSON readers and floats


class TypeMismatch(Exception):
    """The value is not of the declared type; the text says what was expected."""


@cache
def field_types(cls: type) -> dict[str, Any]:
    """The fields of a dataclass with their resolved annotations, class variables left out."""
    return {name: hint for name, hint in get_type_hints(cls).items() if get_origin(hint) is not ClassVar}


def expected(annotation: Any) -> str:
    """A type in a spec-writer's words."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join(expected(arg) for arg in args)
    if origin is Literal:
        return f"one of {', '.join(str(arg) for arg in args)}" if len(args) > 1 else str(args[0])
    if origin is tuple and args[-1] is Ellipsis:
        return f"a list, each {expected(args[0])}"
    if origin is tuple:
        return f"a list of {len(args)}, each {expected(args[0])}"
    return EXPECTED.get(annotation, "nothing that a spec can set")


def convert(annotation: Any, value: Any, text: str | None = None) -> Any:
    """`value` as `annotation` declares it: lists become tuples, 2e5 a whole number where one is wanted, 1 a float.

    `text` is the scalar as written, and what a field of text takes (`2` is "2", `1.10` is "1.10"), `~/` expanded.
    Raises TypeMismatch.
    """
    origin, args, kind = get_origin(annotation), get_args(annotation), type(value)
    if origin in (Union, UnionType):
        for arg in sorted(args, key=lambda arg: arg is not kind):  # an exact match goes first
            try:
                return convert(arg, value, text)
            except TypeMismatch:
                continue
    elif origin is Literal:
        for allowed in args:
            if type(allowed) is kind and allowed == value:
                return allowed
    elif origin is tuple:
        repeated = args[-1] is Ellipsis
        if isinstance(value, list | tuple) and (repeated or len(value) == len(args)):
            return tuple(convert(args[0] if repeated else args[i], item) for i, item in enumerate(value))
    elif annotation is str:
        written = value if kind is str and text is None else text if value is not None else None
        if written is not None:
            return _expand_home(written) if written.startswith("~/") else written
    elif annotation is float and ((kind is float and math.isfinite(value)) or (kind is int and abs(value) <= LARGEST)):
        return float(value)
    elif annotation is int and (kind is int or (kind is float and value.is_integer())) and abs(value) <= LARGEST:
        return int(value)
    elif annotation is not float and annotation is not int and kind is annotation:
        return value
    largest = f" of at most {LARGEST}" if kind in (int, float) and annotation is int and abs(value) > LARGEST else ""
    hint = did_you_mean(value, [str(arg) for arg in args]) if origin is Literal and kind is str else ""
    raise TypeMismatch(f"expected {expected(annotation)}{largest}, got {_as_written(value)}{hint}")


def _expand_home(path: str) -> str:
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        raise TypeMismatch(f"{path} cannot be expanded: HOME is not set; write the whole path") from error


def _as_written(value: Any) -> str:
    if isinstance(value, dict):
        return f"the fields {', '.join(value)}"
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
