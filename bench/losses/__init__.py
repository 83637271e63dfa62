"""The terms of eq. 6. One file, one term: `Spec.build(device)` gives (Prediction, Batch) → one value a scene."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from bench.data.batch import Batch
from bench.rendering import Rendering
from models.parts import PartSpec
from models.tensors import Gaussians


@dataclass(frozen=True)
class Prediction:
    """What the model made of a batch; `rendering` is None while L_3D trains alone."""

    gaussians: Gaussians
    rendering: Rendering | None

    @property
    def images(self) -> Float[Tensor, "batch target 3 height width"]:
        if self.rendering is None:
            raise ValueError("this term compares images, and nothing was rendered")
        return self.rendering.rgb


Term = Callable[[Prediction, Batch], Float[Tensor, " batch"]]


@dataclass(frozen=True)
class LossSpec(PartSpec, ABC):
    """A term and its weight in eq. 6. The loss is the mean over scenes of per-scene means."""

    needs_rendering: ClassVar[bool] = True

    weight: float

    @abstractmethod
    def build(self, device: torch.device) -> Term: ...
