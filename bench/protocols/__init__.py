"""What a number means: a protocol is data. No metric can be computed without one, and every result carries its name.

One file, one protocol: `per_image_white` in a spec means `bench/protocols/per_image_white.py` and its `PROTOCOL`.
On the same predictions, conventions (background, mask, window, one strip or single images) spread PSNR by 7.4 dB and
SSIM by 0.018: more than the differences between the paper's models. No torch.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any, Literal

from bench.common.errors import UserError

LpipsNet = Literal["alex", "vgg"]
BACKGROUNDS = {"white": 1.0, "black": 0.0}


@dataclass(frozen=True)
class Metric:
    """One number an image (or, of the geometry, an input view): its name in files, heading, unit and definition."""

    name: str
    heading: str
    better: Literal["higher", "lower", "none"]
    unit: str
    definition: str
    optional: bool = False  # of one kind of output alone: tables have no column for it where no run has a value


@dataclass(frozen=True)
class Protocol:
    """How images are compared; every field drives the computation. Another convention is another protocol; a changed
    one is another version.

    Common to all: a metric is computed on single images, clipped to [0, 1], of the views that the spec's view choice
    gives in evaluation, and averaged over the views of a scene, then over scenes (`bench.evaluation.scores.Scores`).
    """

    name: str
    version: int
    background: Literal["white", "black"]  # behind true and rendered images and baselines; inputs are always on white
    psnr_cap: float  # dB of identical images, so that means stay finite
    ssim_window: int  # pixels; Gaussian, sum 1
    ssim_sigma: float  # pixels
    lpips_nets: tuple[LpipsNet, ...]
    foreground_alpha: float  # true alpha above it is foreground
    metrics: tuple[Metric, ...]

    @property
    def key(self) -> str:
        """name@version: the file name of a run's evaluation, without the suffix."""
        return f"{self.name}@{self.version}"

    def key_of(self, inputs: int | None = None) -> str:
        """Of a result with another number of input views than the model was trained with, that number after the key."""
        return self.key if inputs is None else f"{self.key}_{inputs:02d}_inputs"

    @property
    def background_gray(self) -> float:
        """In [0, 1]."""
        return BACKGROUNDS[self.background]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def names() -> tuple[str, ...]:
    """The protocols there are, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def evaluations(names: Iterable[str], other_inputs: Iterable[int]) -> dict[str, tuple[str, int | None]]:
    """A run's evaluations: the key of each result → protocol, and number of input views where it is not the trained
    one."""
    numbers = (None, *other_inputs)
    return {get(name).key_of(inputs): (name, inputs) for name in names for inputs in numbers}


def get(name: str) -> Protocol:
    """Raises UserError naming the protocols there are."""
    if name not in names():
        raise UserError(f"no evaluation protocol {name!r}: choose from {', '.join(names())}")
    protocol: Protocol = import_module(f"{__name__}.{name}").PROTOCOL
    return protocol
