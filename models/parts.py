"""One file, one choice: a part is a module whose name is its value in a spec and whose class `Spec` holds its fields.

No registry: `encoder: croco` means `models/encoders/croco.py`. The same mechanism serves every named choice of the
harness (losses, data, view choices).
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from typing import Any, ClassVar

Scale = str


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a spec: the field (dotted, within the part) and what to do about it."""

    field: str
    message: str


@dataclass(frozen=True)
class PartSpec:
    """Fields of one part. Defaults are the paper's; `sizes` says what other scales change."""

    sizes: ClassVar[Mapping[Scale, Mapping[str, object]]] = {}

    @property
    def name(self) -> str:
        return type(self).__module__.rpartition(".")[2]

    def to_dict(self) -> dict[str, Any]:
        """{"name": …, field: value, …}, ready for JSON."""
        return {"name": self.name, **asdict(self)}


@cache
def names(package: str) -> tuple[str, ...]:
    """The choices of a package, e.g. names("models.encoders") → ("conv", "croco")."""
    path = import_module(package).__path__
    return tuple(sorted(m.name for m in pkgutil.iter_modules(path) if not m.name.startswith("_")))


def spec_class(package: str, name: str) -> type[PartSpec]:
    """The `Spec` class of one choice. Raises KeyError naming the choices."""
    if name not in names(package):
        raise KeyError(f"no {name!r} in {package}: choose from {', '.join(names(package))}")
    found: type[PartSpec] = import_module(f"{package}.{name}").Spec
    return found


def from_dict(package: str, values: Mapping[str, Any]) -> PartSpec:
    """The inverse of `PartSpec.to_dict`; lists become tuples, so that specs stay hashable."""
    rest = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k != "name"}
    return spec_class(package, values["name"])(**rest)
