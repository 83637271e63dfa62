"""`--overfit N`, the first test of a new part: can a model memorize a scene, in three dimensions?

Each kind of output has a threshold of its own. Where it is rendered, the target views alone do not show it: under a
renderer whose camera rotations are transposed, a tiny model still fits its four target views to 35 dB, with Gaussians
at arbitrary positions. The scene's other views reveal that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

import models
from bench import outputs, protocols
from bench.common.compat import is_dropout
from bench.common.errors import UserError
from bench.config.schema import RunSpec
from bench.data.batch import Batch
from bench.data.sampler import Sampler
from bench.data.scene import DataSource, distinct_views
from bench.evaluation import baselines, metrics, without_pictures
from bench.evaluation.evaluate import predict
from bench.losses import LossSpec
from bench.protocols import Protocol
from bench.rendering import Rendering
from bench.runtime import numerics
from models.ead import EAD

TARGETS = 4  # views to memorize, at least: two of them do not determine where the Gaussians lie
MIN_TARGET_PSNR = 28.0  # dB on the target views trained on
MIN_GAIN_OVER_BLANK = 3.0  # dB on all other views, over an image that is all background
MAX_POINT_ERROR = 0.05  # of surface points, in the frame's unit: objects are some 0.9 wide
MAX_COMPLETION_ERROR = 0.3  # of hidden patches: about 1 for their mean


@dataclass(frozen=True)
class Criterion:
    """A number and what it must reach: at least the limit, or at most where `lower` is better."""

    name: str
    value: float
    limit: float
    unit: str = ""
    lower: bool = False
    remark: str = ""

    @property
    def passed(self) -> bool:
        return self.value <= self.limit if self.lower else self.value >= self.limit

    def __str__(self) -> str:
        digits, unit = (2, f" {self.unit}") if self.unit == "dB" else (4, self.unit and f" {self.unit}")
        bound = f"at {'most' if self.lower else 'least'} {self.limit:.{digits}f}".rstrip("0").rstrip(".")
        return f"{self.name} {self.value:.{digits}f}{unit} ({bound}{': ' if self.remark else ''}{self.remark})"


@dataclass(frozen=True)
class OverfitVerdict:
    """What an output of its kind must reach, under the run's first protocol."""

    criteria: tuple[Criterion, ...]

    @property
    def passed(self) -> bool:
        return all(criterion.passed for criterion in self.criteria)

    def value(self, name: str) -> float:
        """Of a criterion. Raises KeyError."""
        return {criterion.name: criterion.value for criterion in self.criteria}[name]

    def __str__(self) -> str:
        return f"{'passed' if self.passed else 'FAILED'}: {', '.join(map(str, self.criteria))}"


def overrides(scenes: int, specs: Sequence[RunSpec] = ()) -> list[str]:
    """Settings of a tiny spec under which the bases pass: half a minute to two of one core, one scene.

    Training ends as soon as the check passes (bench/training/memorized.py): the steps are the most that it takes. A
    third above the least learning rate of `specs` (the tiny scale's without any), half as many steps again if any of
    them has dropout, four target views or more, little geometry first (none if any of them has no term that trains
    alone), no LPIPS, which PSNR does not need, and a pretrained encoder that learns as fast as the rest.
    """
    learning_rate = min((spec.train.learning_rate for spec in specs), default=3.0e-3) * 4 / 3
    targets = max([TARGETS, *(spec.views.targets for spec in specs)])
    terms = [[loss for loss in spec.losses.values() if isinstance(loss, LossSpec)] for spec in specs]
    rendered = any(all("rendering" in loss.needs for loss in losses) for losses in terms)
    return [
        f"views.overfit={scenes}",
        f"views.targets={targets}",
        f"train.batch={scenes}",
        f"train.steps={1500 if any(map(_has_dropout, specs)) else 1000}",
        f"train.learning_rate={learning_rate:.4g}",
        "train.warmup_steps=50",
        f"train.geometry_first={0 if rendered else 0.1}",
        "losses.lpips=null",
        "train.parts.encoder.rate=1",
    ]


def _has_dropout(spec: RunSpec) -> bool:
    with torch.device("meta"):
        return any(map(is_dropout, spec.model.build().modules()))


def check_overfit(spec: RunSpec, folder: Path, *, device: torch.device, source: DataSource) -> OverfitVerdict:
    """Of a finished run that overfitted. Raises as `verdict` does."""
    numerics.configure(device, numerics.EVALUATION_PRECISION, spec.seed)
    return verdict(spec, models.load(folder, device), source)


@torch.no_grad()
def verdict(spec: RunSpec, model: EAD, source: DataSource) -> OverfitVerdict:
    """Of a model in evaluation mode. Raises UserError for an output of which nothing can be checked, and for a view
    choice whose inputs depend on its targets."""
    device = next(model.parameters()).device
    protocol = protocols.get(spec.evaluation.protocols[0])
    sampler = Sampler(source, spec.views, spec.seed, spec.model.known)
    trained = sampler.evaluation(sampler.training_scenes, protocol.background_gray)
    trained = without_pictures.prepare(spec.losses, trained, spec.model.encoder.tokens().patch).to(device)
    output, rendering = predict(model, trained)
    if rendering is not None:
        return OverfitVerdict(tuple(_rendered(spec, model, rendering, trained, source, protocol)))
    points = outputs.of(output).surface_points(output)
    if points is not None:
        points = metrics.scaled_to_truth(points, trained) if outputs.of(output).scale_free else points
        error = float(metrics.point_error(points, trained.input_points, trained.input_mask).nanmean())
        return OverfitVerdict((Criterion("point error", error, MAX_POINT_ERROR, lower=True),))
    completed = without_pictures.score(output, rendering, trained, spec.losses).get("model", {})
    if not completed:
        name = spec.model.output.name
        raise UserError(f"views.overfit: output {name} has neither pictures, points nor completed patches to check")
    error = float(completed["completion_error"].mean())
    return OverfitVerdict((Criterion("completion error", error, MAX_COMPLETION_ERROR, lower=True),))


def _rendered(
    spec: RunSpec, model: EAD, rendering: Rendering, trained: Batch, source: DataSource, protocol: Protocol
) -> Iterator[Criterion]:
    """PSNR of the views trained on, and of all others of the scenes."""
    scenes = Sampler(source, spec.views, spec.seed).training_scenes
    others = min(distinct_views(source, scene) for scene in scenes) - spec.views.inputs
    if others < 1:
        raise UserError(
            f"views.inputs: {spec.views.inputs} are all the views of a scene; the check needs at least one more"
        )
    sampler = Sampler(source, replace(spec.views, targets=others), spec.seed, spec.model.known)
    drawn = sampler.evaluation(scenes, protocol.background_gray).to(trained.targets.device)
    if not trained.input_views.equal(drawn.input_views):
        raise UserError(f"views.choice {spec.views.choice.name}: other targets change the inputs; overfit with rig")
    other = (drawn.target_views[:, :, None] != trained.target_views[:, None]).all(-1)
    images = predict(model, drawn)[1]
    assert images is not None, "an output that gave pictures gives them of all cameras"

    def elsewhere(pictures: Tensor) -> float:
        return float(metrics.psnr(pictures, drawn.targets, protocol)[other].mean())

    memorized = float(metrics.psnr(rendering.rgb, trained.targets, protocol).mean())
    yield Criterion("target views", memorized, MIN_TARGET_PSNR, "dB")
    blank = elsewhere(baselines.blank(drawn, 0.0))
    remark = f"{MIN_GAIN_OVER_BLANK:g} dB above a blank image"
    yield Criterion("other views", elsewhere(images.rgb), blank + MIN_GAIN_OVER_BLANK, "dB", remark=remark)
