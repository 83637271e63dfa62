"""A value as YAML gives it → the type that a field declares, or a sentence saying what was expected."""

from __future__ import annotations

import math
from functools import cache
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from bench.config.read import did_you_mean

EXPECTED = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}


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


def convert(annotation: Any, value: Any) -> Any:
    """`value` as `annotation` declares it: lists become tuples, 2e5 a whole number where one is wanted, 1 a float.

    Raises Mismatch.
    """
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return _first_of(annotation, args, value)
    if origin is Literal:
        for allowed in args:
            if type(allowed) is type(value) and allowed == value:
                return allowed
        hint = did_you_mean(value, [str(arg) for arg in args]) if isinstance(value, str) else ""
        raise TypeMismatch(f"expected {expected(annotation)}, got {_got(value)}{hint}")
    if origin is tuple:
        return _tuple(annotation, args, value)
    kind = type(value)
    if annotation is float and kind in (int, float) and math.isfinite(value):
        return float(value)
    if annotation is int and kind is float and value.is_integer():
        return int(value)
    if annotation is not float and kind is annotation:
        return value
    raise TypeMismatch(f"expected {expected(annotation)}, got {_got(value)}")


def _first_of(annotation: Any, args: tuple[Any, ...], value: Any) -> Any:
    for arg in sorted(args, key=lambda arg: arg is not type(value)):  # an exact match goes first
        try:
            return convert(arg, value)
        except TypeMismatch:
            continue
    raise TypeMismatch(f"expected {expected(annotation)}, got {_got(value)}")


def _tuple(annotation: Any, args: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    many = args[-1] is Ellipsis
    if not isinstance(value, list | tuple) or (not many and len(value) != len(args)):
        raise TypeMismatch(f"expected {expected(annotation)}, got {_got(value)}")
    return tuple(convert(args[0] if many else args[i], item) for i, item in enumerate(value))


def _got(value: Any) -> str:
    if isinstance(value, dict):
        return f"the fields {', '.join(value)}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
