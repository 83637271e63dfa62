"""One file, one choice: a part is a module whose name is its value in a spec and whose class `Spec` holds its fields.

No registry: `encoder: croco` means `models/encoders/croco.py`. The same mechanism serves every named choice of the
harness (losses, data, view selection).
"""

from __future__ import annotations

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib import import_module
from typing import Any, ClassVar, Literal

from torch import nn

from models.tensors import Layout, TokenSpec

Scale = str
OutputKind = Literal["gaussians", "pointmap", "pixels", "triplane"]
ViewWeights = Literal["shared", "reference_source"]


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a spec: the field (dotted, within the part) and what to do about it."""

    field: str
    message: str


@dataclass(frozen=True)
class PartSpec:
    """Fields of one part. Defaults are the paper's; `sizes` holds what other scales change."""

    sizes: ClassVar[Mapping[Scale, Mapping[str, object]]] = {}
    may_differ: ClassVar[tuple[str, ...]] = ()  # fields that a part of another run need not share to be started from

    @property
    def name(self) -> str:
        return type(self).__module__.rpartition(".")[2]

    @property
    def reads_cameras(self) -> bool:
        """Whether the part needs cameras: then the model must have `poses: known`."""
        return False

    @property
    def reads_intrinsics(self) -> bool:
        """Whether the part needs intrinsics alone: then the model must have `intrinsics: known` or `poses: known`."""
        return False

    def to_dict(self) -> dict[str, Any]:
        """{"name": …, field: value, …}, ready for JSON."""
        return {"name": self.name, **asdict(self)}


class EncoderSpec(PartSpec, ABC):
    """E: `build()` gives a module Views → Tokens that encodes each view alone (eq. 3)."""

    reads_mask: ClassVar[bool] = False  # whether it leaves out the patches that `Views.mask` hides

    @abstractmethod
    def tokens(self) -> TokenSpec:
        """What its tokens will be."""

    @abstractmethod
    def build(self) -> nn.Module: ...

    def problems(self) -> Iterator[Problem]:
        """What is wrong with the fields."""
        yield from ()


class AggregatorSpec(PartSpec, ABC):
    """A: `build(tokens)` gives a module (Tokens, Cameras | None, levels) → list[Tokens], over all views (eq. 4).

    Level 0 is E's tokens, level k the tokens after block k; only the requested levels are stored. Every level has its
    own width and layout.
    """

    blocks: int

    @abstractmethod
    def levels(self, tokens: TokenSpec) -> Sequence[TokenSpec]:
        """What the tokens of levels 0 … blocks are; their widths may differ."""

    @abstractmethod
    def build(self, tokens: TokenSpec) -> nn.Module: ...

    def problems(self, tokens: TokenSpec, inputs: int) -> Iterator[Problem]:
        """What is wrong with the fields for these tokens of `inputs` views."""
        yield from ()


@dataclass(frozen=True)
class HeadSpec(PartSpec, ABC):
    """D: `build(…)` gives a module (list[Tokens], Views) → Dense, for each view alone (eq. 5).

    `view_weights`: one set for all views, or one for the first view and another for the others, as DUSt3R's two heads.
    `mixes_views`: whether a view's channels depend on other views, which then cannot be taken in turn.
    """

    view_weights: ViewWeights = field(default="shared", metadata={"legacy": "shared"}, kw_only=True)

    layouts: ClassVar[tuple[Layout, ...]] = ("views",)  # of tokens that the head can read
    mixes_views: ClassVar[bool] = False

    @abstractmethod
    def tap_levels(self, blocks: int) -> tuple[int, ...]:
        """The levels of an aggregator of so many blocks that it taps."""

    @abstractmethod
    def build(self, taps: Sequence[TokenSpec], channels: Mapping[str, int]) -> nn.Module: ...

    def problems(self, taps: Sequence[TokenSpec], image_size: int) -> Iterator[Problem]:
        """What is wrong with the fields for these taps."""
        yield from ()


class OutputSpec(PartSpec, ABC):
    """What the head's channels mean: `build()` gives a module (Dense, Views) → Gaussians, PointMap, Pixels or Triplane.

    Several files may give one `kind`: those are its parametrisations.
    """

    kind: ClassVar[OutputKind]
    layouts: ClassVar[tuple[Layout, ...]] = ("views",)  # of the head's tokens that it can interpret

    @abstractmethod
    def channels(self) -> Mapping[str, int]:
        """Named groups of channels, in the order in which the head lays them out."""

    @abstractmethod
    def build(self) -> nn.Module: ...

    def problems(self) -> Iterator[Problem]:
        """What is wrong with the fields."""
        yield from ()


def at_least_one(spec: PartSpec, *names: str) -> list[Problem]:
    """Problems of fields that count something."""
    return [
        Problem(field, f"{value} is too small: at least 1") for field in names if (value := getattr(spec, field)) < 1
    ]


@cache
def available(package: str) -> tuple[str, ...]:
    """The choices of a package, e.g. available("models.encoders") → ("conv", "croco")."""
    path = import_module(package).__path__
    return tuple(sorted(m.name for m in pkgutil.iter_modules(path) if not m.name.startswith("_")))


def spec_class(package: str, name: str) -> type[PartSpec]:
    """The `Spec` class of one choice. Raises KeyError naming the choices."""
    if name not in available(package):
        raise KeyError(f"no {name!r} in {package}: choose from {', '.join(available(package))}")
    cls: type[PartSpec] = import_module(f"{package}.{name}").Spec
    return cls


def from_dict(package: str, values: Mapping[str, Any]) -> PartSpec:
    """The inverse of `PartSpec.to_dict`; lists become tuples, so that specs stay hashable."""
    cls = spec_class(package, values["name"])
    rest = {k: tuple(v) if isinstance(v, list) else v for k, v in current_names(cls, values).items() if k != "name"}
    return cls(**rest)


def current_names(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields and values of a dataclass as an earlier version wrote them (`former_name`, `former_values` in a field's
    metadata), under their names of today."""
    former = {f.metadata["former_name"]: f.name for f in fields(cls) if "former_name" in f.metadata}
    named = {former.get(name, name): value for name, value in values.items()}
    for f in fields(cls):
        if f.name in named and f.metadata.get("former_values"):
            named[f.name] = f.metadata["former_values"].get(named[f.name], named[f.name])
    return named
