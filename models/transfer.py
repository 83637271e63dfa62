"""A part that starts from the same part of another model: what of them may differ, and which tensors it takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from functools import cache

import torch
from torch import nn

from models.ead import EADSpec
from models.parts import PartSpec
from models.published import LAYOUTS, Layout, State, WeightsError, load_layout, validate_layout
from models.weights import load_strict, validate_state_dict


@cache
def problem(part: str, own: EADSpec, other: EADSpec, *, exact: bool = False) -> str | None:
    """Why `part` of `own` cannot start from that of `other`, as a clause; None if it can.

    Fields must agree, but for `PartSpec.may_differ` unless `exact`. Shapes are compared without taking memory. Outputs
    without weights never conflict, unless `exact`.
    """
    mine, theirs = getattr(own, part), getattr(other, part)
    with torch.device("meta"):
        module, source = (getattr(spec.build(), part) for spec in (own, other))
    if part == "output" and not exact and not module.state_dict() and not source.state_dict():
        return None
    if different := [*_differences(mine, theirs, exact)]:
        return f"has another {part} than this run: {', '.join(different)}"
    layout = _layout(part, mine, exact)
    try:
        if layout is None:
            validate_state_dict(module, source.state_dict(), part)
        else:
            validate_layout(module, layout.to_public(source.state_dict()), layout, part)
    except WeightsError as error:
        return f"has another {error}"
    return None


def load(module: nn.Module, part: str, spec: PartSpec, state: State, source: str, *, exact: bool = False) -> list[str]:
    """Give a part the same part's tensors of another model; the keys that keep their initial values.

    Raises WeightsError.
    """
    if layout := _layout(part, spec, exact):
        return load_layout(module, layout.to_public(dict(state)), layout, source)
    load_strict(module, state, source)
    return []


def _layout(part: str, spec: PartSpec, exact: bool) -> Layout | None:
    """The published layout's rules of what the part may lack or add, without those for parts of other widths."""
    if exact or not spec.may_differ or (part, spec.name) not in LAYOUTS:
        return None
    return replace(LAYOUTS[part, spec.name](), adapts="(?!)")


def _differences(own: PartSpec, other: PartSpec, exact: bool) -> Iterator[str]:
    """Such as "linear, not dpt" or "width 96, not 192"."""
    if own.name != other.name:
        yield f"{other.name}, not {own.name}"
        return
    for field in fields(own):
        mine, theirs = getattr(own, field.name), getattr(other, field.name)
        if field.metadata.get("replaced"):  # by the weights: it decides initial values alone
            continue
        if mine != theirs and (exact or field.name not in own.may_differ):
            yield f"{field.name} {theirs}, not {mine}"
