"""The terms of eq. 6 and of pretraining. One file, one term: `Spec.build(device)` gives (Prediction, Batch) → one value
a scene."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from bench import outputs
from bench.data.batch import Batch
from bench.outputs import Capability
from bench.rendering import Rendering
from models.ead import EADSpec
from models.parts import PartSpec, Problem

T = TypeVar("T")


class NotAvailable(ValueError):
    """A term reads what the prediction does not have: `capability`."""

    def __init__(self, text: str, capability: Capability) -> None:
        super().__init__(text)
        self.capability = capability


@dataclass(frozen=True)
class Prediction:
    """A model's output for a batch; `rendering` is None while L_3D trains alone, or where the type has none."""

    output: Any  # Gaussians, PointMap, Pixels, Triplane, … (models/tensors.py)
    rendering: Rendering | None = None

    @property
    def images(self) -> Float[Tensor, "batch target 3 height width"]:
        """Renderings of the target views. Raises NotAvailable."""
        return self._rendered("images").rgb

    @property
    def depth(self) -> Float[Tensor, "batch target height width"]:
        """Rendered depth of the target views. Raises NotAvailable."""
        return self._rendered("depth").depth

    @property
    def alpha(self) -> Float[Tensor, "batch target height width"]:
        """Rendered opacity of the target views. Raises NotAvailable."""
        return self._rendered("alpha").alpha

    @property
    def points(self) -> Float[Tensor, "batch view height width 3"]:
        """The surface point of every input pixel, in the scene's frame. Raises NotAvailable."""
        return self._require(outputs.of(self.output).surface_points(self.output), "surface_points")

    @property
    def confidence(self) -> Float[Tensor, "batch view height width"]:
        """Of the surface points, at least 1. Raises NotAvailable."""
        return self._require(outputs.of(self.output).confidence(self.output), "confidence")

    @property
    def descriptors(
        self,
    ) -> tuple[Float[Tensor, "batch view height width descriptor"], Float[Tensor, "batch view height width"]]:
        """Unit vectors of the input pixels, and their confidence. Raises NotAvailable."""
        return self._require(outputs.of(self.output).descriptors(self.output), "descriptors")

    @property
    def reconstruction(self) -> Float[Tensor, "batch view 3 height width"]:
        """Of the input views, by a model whose output is images. Raises NotAvailable."""
        return self._require(outputs.of(self.output).images(self.output), "images")

    def _rendered(self, name: str) -> Rendering:
        if self.rendering is None:
            raise NotAvailable(f"this term reads rendered {name}, and nothing was rendered", "rendering")
        return self.rendering

    def _require(self, value: T | None, capability: Capability) -> T:
        if value is None:
            name = capability.replace("_", " ")
            raise NotAvailable(f"this term reads {name}, which {type(self.output).__name__} does not have", capability)
        return value


Term = Callable[[Prediction, Batch], Float[Tensor, " batch"]]


@dataclass(frozen=True)
class LossSpec(PartSpec, ABC):
    """A term and its weight in eq. 6. The loss is the mean over scenes of per-scene means.

    `needs`: what the term reads of a prediction; a spec whose output does not have it is refused. `over_views`: whether
    a scene's value is the mean over its target views of what each gives alone, so that they can be rendered in turn.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({"rendering"})
    over_views: ClassVar[bool] = False

    weight: float

    @abstractmethod
    def build(self, device: torch.device) -> Term: ...

    def prepare(self, batch: Batch, *, patch: int, seed: int, step: int) -> Batch:
        """The batch as the model and the terms read it in a training step; `patch` is the encoder's, in pixels.

        What is random must depend on the seed, the step and each scene alone, so that ranks and micro-batches agree.
        """
        return batch

    def weight_at(self, step: int) -> float:
        """The term's weight in training step 0, 1, …; at 0 it is not computed."""
        return self.weight

    def problems(self, model: EADSpec) -> Iterator[Problem]:
        """What the term needs and the model's output does not have."""
        output = model.output
        missing = self.needs - outputs.of_kind(output.kind).capabilities(model)
        for capability in sorted(missing):
            yield Problem(
                "",
                f"needs {capability.replace('_', ' ')}, which output {output.name} of this model does not have: "
                f"remove the term (losses.{self.name}: null) or choose another output",
            )
