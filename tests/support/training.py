"""A model of one block on analytic balls: what tests train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.config.schema import (
    RunSpec,
    TrainSpec,
    ViewsSpec,
)
from bench.data.sampler import Sampler
from bench.data.sources import procedural
from bench.data.view_selection import rig
from bench.losses import (
    mse,
    points,
)
from bench.runs.folder import RunFolder
from bench.runs.writer import PlainWriter
from bench.training.train import train
from models.aggregators import self_attention
from models.ead import EADSpec, Precision
from models.encoders import conv
from models.heads import linear
from models.outputs import gaussians
from support.balls import Balls

CPU = torch.device("cpu")

SIZE = 16

TRAIN = TrainSpec(
    steps=20, batch=4, learning_rate=1e-3, final_learning_rate=1e-5, warmup_steps=3, geometry_first=0.3,
    matmul_precision="highest", checkpoint_every=10,
)  # fmt: skip


def spec(**changes: Any) -> RunSpec:
    """A model of one block on four scenes of 16 px; `changes` are of `train`."""
    output = gaussians.Spec(sh_degree=0, scale_max=0.08, color_residual=True)
    aggregator = self_attention.Spec(blocks=1, heads=2, view_embedding="per_view", table_size=SIZE)
    precision = Precision(aggregator="fp32", head="fp32")
    model = EADSpec(conv.Spec(patch=4, width=32), aggregator, linear.Spec(), output, SIZE, precision=precision)
    losses = {"mse": mse.Spec(), "points": points.Spec()}
    return RunSpec(model, procedural.Spec(), ViewsSpec(rig.Spec()), losses, replace(TRAIN, **changes))


def run(folder: Path, of: RunSpec, **kwargs: Any) -> RunFolder:
    train(of, PlainWriter(folder), device=CPU, source=Balls(SIZE), **kwargs)
    return RunFolder(folder)


def stop_after(steps: int) -> Callable[[], bool]:
    calls = iter(range(1, 1000))
    return lambda: next(calls) >= steps


def batch_of(of: RunSpec, step: int, indices: range | None = None) -> Any:
    return Sampler(Balls(SIZE), of.views, of.seed).training(step, indices or range(of.train.batch))
