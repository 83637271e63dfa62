"""tokens = E(views); taps = A(tokens); dense = D(taps, views); G = O(dense, views): eq. 1–5 of the paper."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from models import parts
from models.parts import AggregatorSpec, EncoderSpec, HeadSpec, OutputSpec, Problem
from models.phases import mark_backward, phase
from models.tensors import Cameras, Dense, Layout, Output, Tokens, TokenSpec, Views
from models.view_weights import HeadByView

Dtype = Literal["fp32", "bf16"]
Known = Literal["unknown", "known"]
KnownCameras = Literal["nothing", "intrinsics", "cameras"]
TOLERANCE = 0.05  # by which resized images overshoot [0, 1]
PACKAGES = {part: f"models.{part}s" for part in ("encoder", "aggregator", "head", "output")}


@dataclass(frozen=True)
class Precision:
    """Of each part's matrix products; the paper trains A and D in bf16 mixed precision and leaves E's open."""

    encoder: Dtype = "fp32"
    aggregator: Dtype = "bf16"
    head: Dtype = "bf16"


@dataclass(frozen=True)
class EADSpec:
    """A row of Table 1: the three parts and what their output means. Images are square, `image_size` pixels a side.

    `inputs`: how many views the model takes, None for any number. `poses: known` gives the parts cameras, `intrinsics:
    known` intrinsics alone.
    """

    encoder: EncoderSpec
    aggregator: AggregatorSpec
    head: HeadSpec
    output: OutputSpec
    image_size: int = 256
    poses: Known = "unknown"
    precision: Precision = Precision()
    intrinsics: Known = field(default="unknown", metadata={"legacy": "unknown"})
    inputs: int | None = field(default=None, metadata={"legacy": None})

    sizes: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "tiny": {"image_size": 32, "precision": {"encoder": "fp32", "aggregator": "fp32", "head": "fp32"}},
        "small": {"image_size": 128},
    }

    @property
    def known(self) -> KnownCameras:
        """What the parts may read of the input views' cameras."""
        return "cameras" if self.poses == "known" else "intrinsics" if self.intrinsics == "known" else "nothing"

    def problems(self, inputs: int) -> Iterator[Problem]:
        """The problems of each part's own fields, then those between parts; fields are dotted from `model`."""
        problems = [*_of("encoder", self.encoder.problems()), *_of("output", self.output.problems())]
        if not any(problem.field.startswith("encoder.") for problem in problems):
            problems += self._problems_between(self.encoder.tokens(), inputs)
        yield from problems
        yield from self._problems_of_cameras()
        if self.inputs is not None and inputs != self.inputs:
            yield Problem(
                "inputs",
                f"this model takes {self.inputs} input views, the views section gives {inputs}; make them equal",
            )

    def _problems_of_cameras(self) -> Iterator[Problem]:
        """What the parts read must be known, and what is known must be read."""
        for part in PACKAGES:
            spec: parts.PartSpec = getattr(self, part)
            if spec.reads_cameras and self.poses == "unknown":
                yield Problem("poses", f"{part} {spec.name} reads cameras; set poses: known")
            if spec.reads_intrinsics and {self.poses, self.intrinsics} == {"unknown"}:
                yield Problem("intrinsics", f"{part} {spec.name} reads intrinsics; set intrinsics: known")
        specs = [getattr(self, part) for part in PACKAGES]
        if self.poses == "known" and not any(spec.reads_cameras for spec in specs):
            yield Problem("poses", "no part of this model reads cameras; use poses: unknown")
        if self.intrinsics == "known" and not any(spec.reads_intrinsics for spec in specs):
            yield Problem("intrinsics", "no part of this model reads intrinsics; use intrinsics: unknown")

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
        """Taps must lie in A, and reach its end; D and the output must read tokens of A's layout."""
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
        elif len(available := self.aggregator.levels(tokens)) != blocks + 1:
            yield Problem(
                "aggregator",
                f"levels() of models/aggregators/{self.aggregator.name}.py gives {len(available)} levels: "
                f"{blocks + 1} are needed, E's tokens and those after each of {blocks} blocks",
            )
        else:
            taps = [available[level] for level in levels]
            yield from self._problems_of_layout({tap.layout for tap in taps})
            yield from _of("head", self.head.problems(taps, self.image_size))

    def _problems_of_layout(self, layouts: set[Layout]) -> Iterator[Problem]:
        for part, spec in (("head", self.head), ("output", self.output)):
            if unreadable := layouts - set(spec.layouts):
                yield Problem(
                    part,
                    f"{spec.name} reads tokens of layout {' or '.join(spec.layouts)}, "
                    f"aggregator {self.aggregator.name} gives {unreadable.pop()}; choose another {part} or aggregator",
                )
        if self.head.view_weights != "shared" and layouts != {"views"}:
            yield Problem("head.view_weights", "tokens of this aggregator belong to no view; use view_weights: shared")

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
            "intrinsics": self.intrinsics,
            "inputs": self.inputs,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EADSpec:
        """The inverse of `to_dict`."""
        specs: dict[str, Any] = {part: parts.from_dict(package, values[part]) for part, package in PACKAGES.items()}
        others = {name: values[name] for name in ("image_size", "poses", "intrinsics", "inputs") if name in values}
        return cls(**specs, **others, precision=Precision(**values["precision"]))


class EAD(nn.Module):
    """An encoder, an aggregator, a head, and the output that gives the head's channels their meaning."""

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
            self.head = spec.head.build(taps, spec.output.channels())
            if spec.head.view_weights == "reference_source":
                self.head = HeadByView(self.head, spec.head.build(taps, spec.output.channels()))
        with _seeded(seed, 3):
            self.output = spec.output.build()

    def forward(self, views: Views) -> Output:
        """N images a scene → Gaussians, PointMap, Pixels or Triplane, in the frame of the training cameras."""
        self._check_images(views)
        tokens = self.encode(views)
        return self.decode(self.aggregate(tokens, views), views)

    def encode(self, views: Views) -> Tokens:
        """T = E(I), in E's precision."""
        with phase("encoder"), _cast(views.images.device.type, self.spec.precision.encoder):
            tokens: Tokens = self.encoder(self._readable(views))
        self._check_tokens(views, tokens)
        mark_backward("encoder", tokens)
        return tokens

    def aggregate(self, tokens: Tokens, views: Views) -> list[Tokens]:
        """T' = A(T) at the levels that D reads, in A's precision."""
        cameras: Cameras | None = self._readable(views).cameras
        precision = self.spec.precision.aggregator
        tokens = _readable_in(precision, tokens, views)
        with phase("aggregator"), _cast(tokens.grid.device.type, precision):
            taps: list[Tokens] = self.aggregator(tokens, cameras, self.levels)
        mark_backward("aggregator", taps)
        return taps

    def decode(self, taps: list[Tokens], views: Views) -> Output:
        """O(D(T')): D in its precision, the meaning of its channels in fp32."""
        views, device, precision = self._readable(views), views.images.device.type, self.spec.precision.head
        taps = [_readable_in(precision, tap, views) for tap in taps]
        with phase("head"), _cast(device, precision):
            dense: Dense = self.head(taps, views)
        with phase("head"), _cast(device, "fp32"):
            output: Output = self.output(dense, views)
        mark_backward("head", output)
        return output

    def _readable(self, views: Views) -> Views:
        """What the parts may read: neither cameras nor intrinsics that are unknown, mid-gray for hidden patches."""
        images = views.images
        if views.mask is not None:
            patch = images.shape[-1] // views.mask.shape[-1]
            visible = views.mask.repeat_interleave(patch, -2).repeat_interleave(patch, -1)
            images = torch.where(visible[:, :, None], images, 0.5)
        if self.spec.known == "nothing":
            return Views(images, mask=views.mask)
        if views.cameras is None and (self.spec.poses == "known" or views.intrinsics is None):
            known = "cameras" if self.spec.poses == "known" else "intrinsics"
            raise ValueError(f"this model reads {known}: pass Views(images, cameras)")
        intrinsics = views.intrinsics if views.cameras is None else views.cameras.intrinsics
        cameras = views.cameras if self.spec.poses == "known" else None
        return Views(images, cameras, intrinsics, views.mask)

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
        if images.dtype != (expected := next(self.parameters()).dtype):
            raise TypeError(f"images are {images.dtype}, the model's weights {expected}: pass images.to({expected})")
        costs_a_wait = self.training and images.is_cuda
        without_values = images.is_meta or type(images) is not Tensor  # a subclass: traced by shape alone
        if not (costs_a_wait or without_values or torch.compiler.is_compiling()):
            self._check_values(images)
        if self.spec.inputs not in (None, images.shape[1]):
            raise ValueError(f"this model takes {self.spec.inputs} input views (model.inputs), not {images.shape[1]}")
        if views.mask is not None and not self.spec.encoder.reads_mask:
            raise ValueError(f"encoder {self.spec.encoder.name} does not read masks of visible patches")
        if images.shape[3] % patch or images.shape[4] % patch:
            size = f"{images.shape[3]} × {images.shape[4]}"
            raise ValueError(f"images of {size} pixels do not divide into the encoder's patches of {patch}")

    @staticmethod
    def _check_values(images: Tensor) -> None:
        """Raises ValueError for what is not in [0, 1]."""
        low, high = (float(bound) for bound in torch.aminmax(images))
        if not math.isfinite(low + high):
            raise ValueError("images hold values that are NaN or infinite; images are floats in [0, 1]")
        if low < -TOLERANCE or high > 1 + TOLERANCE:
            cure = "divide them by 255" if high > 2 else "rescale or clamp them"
            raise ValueError(f"images have values from {low:.3g} to {high:.3g}; images are floats in [0, 1]: {cure}")

    def _check_tokens(self, views: Views, tokens: object) -> None:
        """E's tokens against its Spec, so that no later part is blamed. Raises TypeError."""
        name, expected = self.spec.encoder.name, self.spec.encoder.tokens()
        if not isinstance(tokens, Tokens):
            raise TypeError(f"encoder {name} returned a {type(tokens).__name__}, not Tokens(grid=…)")
        batch, view, _, height, width = views.images.shape
        shape = (batch, view, height // expected.patch, width // expected.patch, expected.dim)
        if tuple(tokens.grid.shape) != shape:
            raise TypeError(
                f"encoder {name} returned a grid of shape {tuple(tokens.grid.shape)}; its Spec.tokens() promises "
                f"{shape}: (scene, view, rows, columns, dim)"
            )
        extra = 0 if tokens.extra is None else tokens.extra.shape[2]
        if extra != expected.extra:
            raise TypeError(
                f"encoder {name} returned {extra} extra tokens a view; its Spec.tokens() promises {expected.extra}"
            )

    def parts(self) -> dict[str, nn.Module]:
        """E, A and D by name, and the output where it has parameters of its own."""
        trained = {"encoder": self.encoder, "aggregator": self.aggregator, "head": self.head}
        return trained | ({"output": self.output} if any(True for _ in self.output.parameters()) else {})

    def blocks(self, part: str) -> list[nn.Module]:
        """What a part keeps in module lists `blocks` and `source_blocks` (of weights by view), for checkpointing,
        sharding and compiling from outside."""
        module = self.parts()[part]
        return [block for name in ("blocks", "source_blocks") for block in getattr(module, name, ())]


def count_parameters(model: EAD) -> dict[str, int]:
    """Trained parameters (Table 3's "Params."): encoder, aggregator, head, output where it has any, total."""
    parts = model.parts().items()
    counts = {name: sum(p.numel() for p in part.parameters() if p.requires_grad) for name, part in parts}
    return {**counts, "total": sum(counts.values())}


def _of(part: str, problems: Iterator[Problem]) -> Iterator[Problem]:
    yield from (Problem(f"{part}.{problem.field}", problem.message) for problem in problems)


def _cast(device: str, precision: Dtype) -> AbstractContextManager[None]:
    """Weights are cast at each use: one kept from a first use would be missing where a block is computed again."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16", cache_enabled=False)


def _readable_in(precision: Dtype, tokens: Tokens, views: Views) -> Tokens:
    """The tokens of a part that may have computed in bf16, which only autocast would cast back to the weights' type."""
    return tokens if precision == "bf16" else tokens.to(views.images.dtype)


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
