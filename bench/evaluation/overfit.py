"""`--overfit N`, the first test of a new part: can a model memorize a scene, in three dimensions?

The target views alone do not show it: under a renderer whose camera rotations are transposed, a tiny model still fits
its four target views to 35 dB, with Gaussians at arbitrary positions. The scene's other views reveal that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

import models
from bench import protocols
from bench.common.errors import UserError
from bench.config.schema import RunSpec
from bench.data.batch import Batch
from bench.data.sampler import Sampler
from bench.data.scene import DataSource, distinct_views
from bench.evaluation import baselines
from bench.evaluation.evaluate import predict
from bench.evaluation.metrics import psnr
from bench.runtime import numerics
from models.ead import EAD

MIN_TARGET_PSNR = 28.0  # dB on the target views trained on
MIN_GAIN_OVER_BLANK = 3.0  # dB on all other views, over an image that is all background


@dataclass(frozen=True)
class OverfitVerdict:
    """PSNR in dB under the run's first protocol.

    `memorized`: of the views trained on; `elsewhere`: of the scenes' other views; `blank`: of background alone there.
    """

    memorized: float
    elsewhere: float
    blank: float

    @property
    def passed(self) -> bool:
        return self.memorized >= MIN_TARGET_PSNR and self.elsewhere >= self.blank + MIN_GAIN_OVER_BLANK

    def __str__(self) -> str:
        return (
            f"{'passed' if self.passed else 'FAILED'}: "
            f"target views {self.memorized:.2f} dB (at least {MIN_TARGET_PSNR}), "
            f"other views {self.elsewhere:.2f} dB (at least {self.blank + MIN_GAIN_OVER_BLANK:.2f}: "
            f"{MIN_GAIN_OVER_BLANK:g} dB above a blank image)"
        )


def overrides(scenes: int) -> list[str]:
    """Settings of a tiny spec under which the models of Table 2 pass: a minute or two of one core, one scene.

    Twice the tiny scale's learning rate, little geometry first, and no LPIPS, which PSNR does not need.
    """
    return [
        f"views.overfit={scenes}",
        f"train.batch={scenes}",
        "train.steps=1000",
        "train.learning_rate=4.0e-3",
        "train.warmup_steps=50",
        "train.geometry_first=0.1",
        "losses.lpips=null",
    ]


def _images(model: EAD, batch: Batch) -> Float[Tensor, "batch target 3 height width"]:
    rendering = predict(model, batch)[1]
    if rendering is None:
        raise UserError(f"views.overfit: output {model.spec.output.name} renders nothing, so no PSNR can be checked")
    return rendering.rgb


@torch.no_grad()
def check_overfit(spec: RunSpec, folder: Path, *, device: torch.device, source: DataSource) -> OverfitVerdict:
    """Of a finished run that overfitted. Raises UserError for a view choice whose inputs depend on its targets."""
    numerics.configure(device, numerics.EVALUATION_PRECISION, spec.seed)
    model = models.load(folder, device)
    protocol = protocols.get(spec.evaluation.protocols[0])
    scenes = Sampler(source, spec.views, spec.seed).training_scenes
    others = min(distinct_views(source, scene) for scene in scenes) - spec.views.inputs
    if others < 1:
        raise UserError(
            f"views.inputs: {spec.views.inputs} are all the views of a scene; the check needs at least one more"
        )
    everything = replace(spec.views, targets=others)
    trained, drawn = (
        sampler.evaluation(sampler.training_scenes, protocol.background_gray).to(device)
        for sampler in (Sampler(source, views, spec.seed, spec.model.known) for views in (spec.views, everything))
    )
    if not trained.input_views.equal(drawn.input_views):
        raise UserError(f"views.choice {spec.views.choice.name}: other targets change the inputs; overfit with rig")
    other = (drawn.target_views[:, :, None] != trained.target_views[:, None]).all(-1)
    return OverfitVerdict(
        memorized=float(psnr(_images(model, trained), trained.targets, protocol).mean()),
        elsewhere=float(psnr(_images(model, drawn), drawn.targets, protocol)[other].mean()),
        blank=float(psnr(baselines.blank(drawn, 0.0), drawn.targets, protocol)[other].mean()),
    )
