"""tokens = E(views); taps = A(tokens); dense = D(taps, views); G = O(dense, views): eq. 1–5 of the paper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from torch.profiler import record_function

from models import parts
from models.parts import AggregatorSpec, EncoderSpec, HeadSpec, OutputSpec, Problem
from models.tensors import Gaussians, Tokens, TokenSpec, Views

Dtype = Literal["fp32", "bf16"]
PACKAGES = {part: f"models.{part}s" for part in ("encoder", "aggregator", "head", "output")}


@dataclass(frozen=True)
class Precision:
    """Of each part's matrix products; the paper trains A and D in bf16 mixed precision and does not say E's."""

    encoder: Dtype = "fp32"
    aggregator: Dtype = "bf16"
    head: Dtype = "bf16"


@dataclass(frozen=True)
class EADSpec:
    """A row of Table 1: the three parts and what their output means. Images are square, `image_size` pixels a side."""

    encoder: EncoderSpec
    aggregator: AggregatorSpec
    head: HeadSpec
    output: OutputSpec
    image_size: int = 256
    poses: Literal["unknown", "known"] = "unknown"
    precision: Precision = Precision()

    sizes: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "tiny": {"image_size": 32, "precision": {"aggregator": "fp32", "head": "fp32"}},
        "small": {"image_size": 128},
    }

    def problems(self, inputs: int) -> Iterator[Problem]:
        """What each part says of its own fields, then the rules between parts; fields are dotted from `model`."""
        found = [*_of("encoder", self.encoder.problems()), *_of("output", self.output.problems())]
        if not any(problem.field.startswith("encoder.") for problem in found):
            found += self._problems_between(self.encoder.tokens(), inputs)
        if self.poses == "known" and not (self.encoder.reads_cameras or self.head.reads_cameras):
            found.append(Problem("poses", "no part of this model reads cameras; use poses: unknown"))
        yield from found

    def _problems_between(self, tokens: TokenSpec, inputs: int) -> Iterator[Problem]:
        """E's patches must fill the image, A must take E's tokens, D must read what A has."""
        if self.image_size % tokens.patch:
            size = f"{self.image_size} pixels"
            yield Problem(
                "encoder.patch", f"{tokens.patch} does not divide the image's {size}; choose a patch that does"
            )
            return
        aggregator = [*_of("aggregator", self.aggregator.problems(tokens, inputs))]
        yield from aggregator
        if not any(problem.field == "aggregator.blocks" for problem in aggregator):
            yield from self._problems_of_head(tokens)

    def _problems_of_head(self, tokens: TokenSpec) -> Iterator[Problem]:
        """Taps must lie in A, and reach its end."""
        blocks = self.aggregator.blocks
        levels = self.head.tap_levels(blocks)
        if outside := [level for level in levels if not 0 <= level <= blocks]:
            yield Problem(
                "head.taps",
                f"tap {outside[0]} lies outside 0…{blocks}: 0 is E's tokens, {blocks} A's last block; "
                "change the taps or model.aggregator.blocks",
            )
        elif max(levels) < blocks:
            yield Problem(
                "head.taps",
                f"nothing would read A's blocks after {max(levels)}: end the taps at {blocks}, "
                f"or set model.aggregator.blocks to {max(levels)}",
            )
        else:
            available = self.aggregator.levels(tokens)
            yield from _of("head", self.head.problems([available[level] for level in levels], self.image_size))

    def tokens_per_scene(self, inputs: int) -> int:
        """N·HW/p² (§2.3), with class and register tokens."""
        tokens = self.encoder.tokens()
        return inputs * ((self.image_size // tokens.patch) ** 2 + tokens.extra)

    def build(self, seed: int | None = None) -> EAD:
        """The model, initialized part by part from (seed, part): another head leaves E's and A's weights alone.

        Under `torch.device("meta")` no memory is taken. `seed=None` draws from torch's global generator.
        """
        return EAD(self, seed)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            **{part: getattr(self, part).to_dict() for part in PACKAGES},
            "image_size": self.image_size,
            "poses": self.poses,
            "precision": asdict(self.precision),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EADSpec:
        """The inverse of `to_dict`."""
        chosen: dict[str, Any] = {part: parts.from_dict(package, values[part]) for part, package in PACKAGES.items()}
        return cls(
            **chosen, image_size=values["image_size"], poses=values["poses"], precision=Precision(**values["precision"])
        )


class EAD(nn.Module):
    """An encoder, an aggregator and a head; `output` (no parameters) says what the head's channels mean."""

    def __init__(self, spec: EADSpec, seed: int | None = None) -> None:
        super().__init__()
        self.spec = spec
        tokens = spec.encoder.tokens()
        self.levels = spec.head.tap_levels(spec.aggregator.blocks)
        available = spec.aggregator.levels(tokens)
        taps = [available[level] for level in self.levels]
        with _seeded(seed, 0):
            self.encoder = spec.encoder.build()
        with _seeded(seed, 1):
            self.aggregator = spec.aggregator.build(tokens)
        with _seeded(seed, 2):
            self.head = spec.head.build(taps, spec.image_size, spec.output.channels())
        self.output = spec.output.build()

    def forward(self, views: Views) -> Gaussians:
        """N images a scene → Gaussians of shape (batch, view, height, width), in the frame of the training cameras."""
        self._check_images(views)
        tokens = self.encode(views)
        return self.decode(self.aggregate(tokens), views)

    def encode(self, views: Views) -> Tokens:
        """T = E(I), in E's precision."""
        with record_function("encoder"), _cast(views.images.device.type, self.spec.precision.encoder):
            tokens: Tokens = self.encoder(self._told(views))
        self._check_tokens(views, tokens)
        return tokens

    def aggregate(self, tokens: Tokens) -> list[Tokens]:
        """T' = A(T) at the levels that D reads, in A's precision."""
        with record_function("aggregator"), _cast(tokens.grid.device.type, self.spec.precision.aggregator):
            taps: list[Tokens] = self.aggregator(tokens, self.levels)
        return taps

    def decode(self, taps: list[Tokens], views: Views) -> Gaussians:
        """G = O(D(T')): D in its precision, the meaning of its channels in fp32."""
        views, device = self._told(views), views.images.device.type
        with record_function("head"), _cast(device, self.spec.precision.head):
            dense = self.head(taps, views)
        with record_function("head"), _cast(device, "fp32"):
            gaussians: Gaussians = self.output(dense, views)
        return gaussians

    def _told(self, views: Views) -> Views:
        """What the parts may see: no cameras where poses are unknown."""
        return Views(views.images) if self.spec.poses == "unknown" else views

    def _check_images(self, views: object) -> None:
        """Raises TypeError, ValueError."""
        if not isinstance(views, Views):
            raise TypeError(f"a model takes models.Views(images), not a {type(views).__name__}")
        images, patch = views.images, self.spec.encoder.tokens().patch
        if images.ndim != 5 or images.shape[2] != 3 or not images.is_floating_point():
            raise TypeError(
                f"images are floats in [0, 1] of shape (scene, view, 3, height, width); "
                f"these are {images.dtype} of shape {tuple(images.shape)}"
            )
        if images.shape[3] % patch or images.shape[4] % patch:
            size = f"{images.shape[3]} × {images.shape[4]}"
            raise ValueError(f"images of {size} pixels do not divide into the encoder's patches of {patch}")

    def _check_tokens(self, views: Views, tokens: object) -> None:
        """What E gave against what its Spec promises, so that no later part gets the blame. Raises TypeError."""
        name, promised = self.spec.encoder.name, self.spec.encoder.tokens()
        if not isinstance(tokens, Tokens):
            raise TypeError(f"encoder {name} gave a {type(tokens).__name__}, not Tokens(grid=…)")
        batch, view, _, height, width = views.images.shape
        wanted = (batch, view, height // promised.patch, width // promised.patch, promised.dim)
        if tuple(tokens.grid.shape) != wanted:
            raise TypeError(
                f"encoder {name} gave a grid of shape {tuple(tokens.grid.shape)}; its Spec.tokens() promises {wanted}: "
                "(scene, view, rows, columns, dim)"
            )

    def parts(self) -> dict[str, nn.Module]:
        """E, A and D by name."""
        return {"encoder": self.encoder, "aggregator": self.aggregator, "head": self.head}

    def blocks(self) -> list[nn.Module]:
        """What each part keeps in a module list `blocks`, for checkpointing, sharding and compiling from outside."""
        return [block for part in self.parts().values() for block in getattr(part, "blocks", ())]


def count_parameters(model: EAD) -> dict[str, int]:
    """Trained parameters (Table 3's "Params."): encoder, aggregator, head, total."""
    counts = {
        name: sum(p.numel() for p in part.parameters() if p.requires_grad) for name, part in model.parts().items()
    }
    return {**counts, "total": sum(counts.values())}


def _of(part: str, problems: Iterator[Problem]) -> Iterator[Problem]:
    yield from (Problem(f"{part}.{problem.field}", problem.message) for problem in problems)


def _cast(device: str, precision: Dtype) -> AbstractContextManager[None]:
    return torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16")


class _seeded:
    """Seed the CPU generator for a block, and give its state back afterwards; nothing for None."""

    def __init__(self, seed: int | None, part: int) -> None:
        self.seed, self.part = seed, part

    def __enter__(self) -> None:
        if self.seed is not None:
            self.state = torch.random.get_rng_state()
            torch.manual_seed(1000 * self.seed + self.part)

    def __exit__(self, *_: object) -> None:
        if self.seed is not None:
            torch.random.set_rng_state(self.state)
