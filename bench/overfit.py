"""`--overfit N`, the first test of a new part: can a model memorise a scene, and is what it learned the scene?

Four views alone do not tell: under a renderer whose camera rotations are transposed, a tiny model still paints its four
target views to 35 dB, with Gaussians that stand anywhere. The scene's other views give it away.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

import models
from bench import evaluate, metrics, numerics, protocols
from bench.data.batch import Batch
from bench.data.sampler import Sampler
from bench.data.scene import LARA_VIEWS
from bench.errors import BadInput

if TYPE_CHECKING:
    from pathlib import Path

    from bench.data.scene import DataSource
    from bench.spec.schema import RunSpec

DISTINCT_VIEWS = len(LARA_VIEWS) - 2  # the last of each ring repeats its first
ENOUGH = 28.0  # dB on the target views trained on
ABOVE_WHITE = 3.0  # dB on all other views, over a white image


@dataclass(frozen=True)
class Verdict:
    """PSNR in dB under per_image_white: of the views trained on, of the scenes' other views, and of white there."""

    memorised: float
    elsewhere: float
    white: float

    @property
    def passed(self) -> bool:
        return self.memorised >= ENOUGH and self.elsewhere >= self.white + ABOVE_WHITE

    def __str__(self) -> str:
        return (
            f"{'passed' if self.passed else 'FAILED'}: target views {self.memorised:.2f} dB (at least {ENOUGH}), "
            f"other views {self.elsewhere:.2f} dB (at least {self.white + ABOVE_WHITE:.2f}, white + {ABOVE_WHITE:g})"
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


@torch.no_grad()
def check(spec: RunSpec, folder: Path, *, device: torch.device, source: DataSource) -> Verdict:
    """Of a finished run that overfitted. Raises BadInput for a view choice whose inputs depend on its targets."""
    numerics.configure(spec, device)
    model = models.load(folder, device)
    everything = replace(spec.views, targets=DISTINCT_VIEWS - spec.views.inputs)
    trained, drawn = (
        sampler.evaluation(sampler.training_scenes).to(device)
        for sampler in (Sampler(source, views, spec.seed, spec.model.poses) for views in (spec.views, everything))
    )
    if not trained.input_views.equal(drawn.input_views):
        raise BadInput(f"views.choice {spec.views.choice.name}: other targets change the inputs; overfit with rig")
    other = (drawn.target_views[:, :, None] != trained.target_views[:, None]).all(-1)
    return Verdict(
        memorised=float(_psnr(evaluate.predict(model, trained)[1].rgb, trained).mean()),
        elsewhere=float(_psnr(evaluate.predict(model, drawn)[1].rgb, drawn)[other].mean()),
        white=float(_psnr(torch.ones_like(drawn.targets), drawn)[other].mean()),
    )


def _psnr(images: Tensor, batch: Batch) -> Float[Tensor, "batch target"]:
    return metrics.psnr(images.clamp(0, 1), batch.targets.clamp(0, 1), protocols.get("per_image_white").psnr_cap)
