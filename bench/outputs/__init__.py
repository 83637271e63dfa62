"""What the harness asks of an output type: rendering, surface points, confidence, statistics.

One file, one type: the output spec's `kind` is the file's name, and the lower-case name of its class in
models/tensors.py (`PointMap` → `pointmap`). Nothing else in the harness assumes a type; what a type does not have
leaves cells empty.
"""

from __future__ import annotations

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cache
from importlib import import_module
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from bench.data.batch import Batch
from bench.rendering import Rendering
from models.ead import EADSpec
from models.parts import OutputSpec
from models.tensors import Cameras

Capability = Literal["rendering", "surface_points", "confidence", "descriptors", "images"]
Points = Float[Tensor, "batch view height width 3"]


class OutputType(ABC):
    """One type of output. A method of a capability that the type does not have returns None."""

    limits: ClassVar[Mapping[str, tuple[float, str]]] = {}  # key of `diagnostics` → limit, warning above it
    scale_free: ClassVar[bool] = False  # surface points mean something only up to their scale about the first camera

    @abstractmethod
    def capabilities(self, model: EADSpec) -> frozenset[Capability]:
        """What outputs of this model have; known without building it."""

    def render(self, output: Any, cameras: Cameras, background: Float[Tensor, "batch target 3"]) -> Rendering | None:
        """Images of the target cameras, (batch, target), over the background."""
        return None

    def surface_points(self, output: Any) -> Points | None:
        """A point on the surface for each pixel of each input view, in the scene's frame."""
        return None

    def confidence(self, output: Any) -> Float[Tensor, "batch view height width"] | None:
        """Of the surface points, at least 1."""
        return None

    def descriptors(
        self, output: Any
    ) -> tuple[Float[Tensor, "batch view height width descriptor"], Float[Tensor, "batch view height width"]] | None:
        """Unit vectors that match corresponding pixels of two views, and their positive confidence."""
        return None

    def images(self, output: Any) -> Float[Tensor, "batch view 3 height width"] | None:
        """Reconstructions of the input views."""
        return None

    def diagnostics(self, output: Any, batch: Batch, spec: OutputSpec) -> dict[str, Tensor]:
        """{"health/…": sum over scenes of per-scene shares}."""
        return {}


def names() -> tuple[str, ...]:
    """The output types there are, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


@cache
def of_kind(kind: str) -> OutputType:
    """Raises KeyError naming the output types there are."""
    if kind not in names():
        raise KeyError(f"no bench/outputs/{kind}.py: the output types are {', '.join(names())}")
    output_type: OutputType = import_module(f"{__name__}.{kind}").TYPE
    return output_type


def of(output: object) -> OutputType:
    """The type of a model's output."""
    return of_kind(type(output).__name__.lower())


def tensors(output: Any) -> Iterator[Tensor]:
    """The tensors of an output, each (batch, …)."""
    for field in fields(output):
        if isinstance(value := getattr(output, field.name), Tensor):
            yield value


@torch.no_grad()
def non_finite(output: Any) -> Float[Tensor, " batch"]:
    """The share of each scene's values that are NaN or infinite."""
    bad = torch.cat([~value.isfinite().flatten(1) for value in tensors(output)], dim=1)
    return bad.float().mean(1)
