"""Between public keys and ours, strict in both directions.

A layout knows which keys of a file are a part of ours and what they are called here; what a part should be called there
follows from the same table, so that every difference is reported in the names of the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from models.ead import EADSpec

State = Mapping[str, Tensor]
Names = tuple[tuple[str, str], ...]  # (public, ours), the first match wins both ways; {} is one word


class WeightsError(Exception):
    """A checkpoint that does not fit: the first offending key, and what was expected."""


@dataclass(frozen=True)
class Layout:
    """A kind of checkpoint and the part that it fills.

    `select`: the file's tensors that are the part, as the published file has them; `to_ours` and `to_public`: between
    those and the part's state dict. `adapts`: public keys that depend on what stands before or after the part; they are
    loaded where their shapes are ours and keep their initial values otherwise. `optional`: public keys that a smaller
    part has no place for. `added`: keys of ours that no published file has; they keep their initial values. `cut`:
    public keys of a last layer whose first channels alone a model may have: those are taken. `fixes`: of a whole model,
    parts and fields that shapes do not show, with the values that its weights were trained under.
    """

    name: str
    select: Callable[[State], dict[str, Tensor]]
    to_ours: Callable[[State], dict[str, Tensor]]
    to_public: Callable[[State], dict[str, Tensor]]
    adapts: str = "(?!)"
    optional: str = "(?!)"
    added: str = "(?!)"
    cut: str = "(?!)"
    fixes: Callable[[EADSpec], Mapping[str, object]] = lambda _: {}


def differences(spec: EADSpec, layout: Layout, ignored: Collection[str] = ()) -> list[str]:
    """What of a model a whole published one's weights cannot serve: "model.head is dpt, FreeSplatter's is linear".

    `ignored`: names of fields that are not compared.
    """
    texts, other_parts = [], set()
    for key, expected in layout.fixes(spec).items():
        part, _, name = key.partition(".")
        chosen = getattr(spec, part)
        value = getattr(chosen, name, None) if name else chosen.name
        if value != expected and part not in other_parts and name not in ignored:
            texts.append(f"model.{key} is {value}, {layout.name}'s is {expected}")
            other_parts |= set() if name else {part}
    return texts


def load_layout(module: nn.Module, public: State, layout: Layout, source: str) -> list[str]:
    """Give a part a published checkpoint's tensors; the public keys that were left as they are here (`adapts`).

    Raises WeightsError naming the first key that is missing, of another shape or too much.
    """
    tensors, unmatched = validate_layout(module, public, layout, source)
    current = layout.to_public(module.state_dict())
    module.load_state_dict(layout.to_ours(tensors | {key: current[key] for key in unmatched}), strict=True)
    return unmatched


def validate_layout(
    module: nn.Module, public: State, layout: Layout, source: str
) -> tuple[dict[str, Tensor], list[str]]:
    """The part's tensors in the file, and the keys to leave; the module may be on the meta device.

    Raises WeightsError.
    """
    expected = layout.to_public(module.state_dict())
    try:
        tensors = layout.select(public)
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from error
    unmatched = []
    for key, tensor in expected.items():
        if key not in tensors and re.fullmatch(layout.added, key):
            unmatched.append(key)
            continue
        if key not in tensors:
            raise WeightsError(f"{source}: {key} is missing (this model has it as {_shape(tensor)})")
        if re.fullmatch(layout.cut, key) and tensors[key].shape[1:] == tensor.shape[1:]:
            tensors[key] = tensors[key][: len(tensor)]
        if tensors[key].shape != tensor.shape:
            if not re.fullmatch(layout.adapts, key):
                raise WeightsError(f"{source}: {key} has shape {_shape(tensors[key])}, this model {_shape(tensor)}")
            unmatched.append(key)
    tensors = {
        key: value for key, value in tensors.items() if key in expected or not re.fullmatch(layout.optional, key)
    }
    if extra := [key for key in tensors if key not in expected]:
        raise WeightsError(f"{source}: {extra[0]} {_shape(tensors[extra[0]])} belongs to no parameter of this model")
    return {key: value for key, value in tensors.items() if key not in unmatched}, unmatched


def rename(state: State, names: Names, *, back: bool = False) -> dict[str, Tensor]:
    """Public names to ours, or `back`. Raises WeightsError for a key that the table does not know."""
    renamed = {}
    for key, value in state.items():
        pairs = ((ours, public) if back else (public, ours) for public, ours in names)
        new_name = next(
            (to.format(*match.groups()) for of, to in pairs if (match := _pattern(of).fullmatch(key))), None
        )
        if new_name is None:
            raise WeightsError(f"{key} is not known in this kind of checkpoint")
        renamed[new_name] = value
    return renamed


@cache
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace(r"\{\}", r"([^.]+)"))


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


@dataclass(frozen=True)
class Section:
    """Keys below a prefix of the file, which are `names` below a prefix of ours.

    `starts`: what a key begins with after the prefix, where other sections share it. `stored_twice`: pairs of public
    keys, after the prefix, that are one tensor; a file may hold either or both, if they are equal.
    """

    public: str
    ours: str
    names: Names
    starts: tuple[str, ...] = ("",)
    stored_twice: tuple[tuple[str, str], ...] = ()

    def has_public(self, key: str) -> bool:
        return key.startswith(self.public) and key.removeprefix(self.public).startswith(self.starts)

    def select(self, public: State) -> dict[str, Tensor]:
        """Raises WeightsError for a tensor that is stored twice with different values."""
        tensors = {key: value for key, value in public.items() if self.has_public(key)}
        for one, other in ((self.public + one, self.public + other) for one, other in self.stored_twice):
            if one in tensors and other in tensors and not _same(tensors[one], tensors[other]):
                raise WeightsError(f"{one} and {other} differ, but are one tensor in DUSt3R")
            if one in tensors or other in tensors:
                tensors[one] = tensors[other] = tensors[one] if one in tensors else tensors[other]
        return tensors

    def to_ours(self, public: State) -> dict[str, Tensor]:
        second = {other for _, other in self.stored_twice}
        keys = {key.removeprefix(self.public): value for key, value in public.items() if self.has_public(key)}
        renamed = rename({key: value for key, value in keys.items() if key not in second}, self.names)
        return {self.ours + key: value for key, value in renamed.items()}

    def to_public(self, ours: State) -> dict[str, Tensor]:
        keys = {key.removeprefix(self.ours): value for key, value in ours.items() if key.startswith(self.ours)}
        renamed = rename(keys, self.names, back=True)
        renamed |= {other: renamed[one] for one, other in self.stored_twice if one in renamed}
        return {self.public + key: value for key, value in renamed.items()}


def of_sections(name: str, *sections: Section, adapts: str = "(?!)", optional: str = "(?!)") -> Layout:
    """A layout of several sections, whose prefixes of ours differ, or are all empty for a single one."""

    def joined(tensors: State, convert: Callable[[Section], dict[str, Tensor]]) -> dict[str, Tensor]:
        return {key: value for section in sections for key, value in convert(section).items()}

    def to_public(ours: State) -> dict[str, Tensor]:
        if unknown := [key for key in ours if not key.startswith(tuple(section.ours for section in sections))]:
            raise WeightsError(f"{name} has no place for {unknown[0]} of this model")
        return joined(ours, lambda section: section.to_public(ours))

    return Layout(
        name=name,
        select=lambda public: joined(public, lambda section: section.select(public)),
        to_ours=lambda public: joined(public, lambda section: section.to_ours(public)),
        to_public=to_public,
        adapts=adapts,
        optional=optional,
    )


def below(layout: Layout, prefix: str) -> Layout:
    """The same layout in a file whose keys have one more prefix."""
    return Layout(
        name=layout.name,
        select=lambda public: {
            prefix + key: value
            for key, value in layout.select(
                {key.removeprefix(prefix): value for key, value in public.items() if key.startswith(prefix)}
            ).items()
        },
        to_ours=lambda public: layout.to_ours({key.removeprefix(prefix): value for key, value in public.items()}),
        to_public=lambda ours: {prefix + key: value for key, value in layout.to_public(ours).items()},
        adapts=re.escape(prefix) + f"(?:{layout.adapts})",
        optional=re.escape(prefix) + f"(?:{layout.optional})",
        added=re.escape(prefix) + f"(?:{layout.added})",
        cut=re.escape(prefix) + f"(?:{layout.cut})",
        fixes=layout.fixes,
    )


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and (one.is_meta or one.data_ptr() == other.data_ptr() or torch.equal(one, other))
