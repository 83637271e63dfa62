"""One set of a head's weights for the first view, another for all others."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from models.tensors import Cameras, Dense, Tokens, Views


class HeadByView(nn.Module):
    """One head for the first view, another for all others (DUSt3R's `downstream_head1` and `downstream_head2`)."""

    def __init__(self, reference: nn.Module, source: nn.Module) -> None:
        super().__init__()
        self.reference, self.source = reference, source

    def forward(self, taps: list[Tokens], views: Views) -> Dense:
        first: Dense = self.reference([views_of(tap, slice(0, 1)) for tap in taps], views_of(views, slice(0, 1)))
        if views.images.shape[1] == 1:
            return first
        rest: Dense = self.source([views_of(tap, slice(1, None)) for tap in taps], views_of(views, slice(1, None)))
        return Dense({name: torch.cat([value, rest.channels[name]], dim=1) for name, value in first.channels.items()})


ByView = TypeVar("ByView", Tokens, Views, Cameras)


def views_of(value: ByView, chosen: slice) -> ByView:
    """A part of the views: all tensors sliced along their second axis."""
    changes: dict[str, Any] = {}
    for f in fields(value):
        item = getattr(value, f.name)
        if isinstance(item, Cameras):
            changes[f.name] = views_of(item, chosen)
        elif isinstance(item, Tensor):
            changes[f.name] = item[:, chosen]
    return replace(value, **changes)
