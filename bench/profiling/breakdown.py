"""Breakdown of a training step's time by part: clocks between the parts of an instrumented step, without a profiler."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench import outputs
from bench.data.batch import Batch
from bench.data.sampler import Sampler
from bench.losses import Prediction
from bench.profiling.step_profile import synchronize
from bench.training.optimizer import geometry_steps
from bench.training.trainer import Trainer

if TYPE_CHECKING:
    from bench.data.scene import DataSource

WARM_UP = 3  # steps
PARTS = ("data", "encoder", "aggregator", "head", "rasterize", "losses", "losses backward", "rasterize backward",
         "model backward", "exchange", "optimizer")  # fmt: skip
DEFINITION = (
    "median wall time of each part of a training step with all losses, the device synchronized between parts; data: "
    "loading one batch, which training does during the previous step; exchange: the sum of gradients over ranks; no "
    "profiler is active"
)


def time_by_part(trainer: Trainer, source: DataSource, steps: int) -> dict[str, float]:
    """{part: milliseconds}: medians of `steps` steps after WARM_UP steps."""
    spec, device = trainer.spec, next(trainer.model.parameters()).device
    sampler = Sampler(source, spec.views, spec.seed, spec.model.known)
    times: list[dict[str, float]] = []

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        synchronize(device)
        started = time.perf_counter()
        yield
        synchronize(device)
        times[-1][name] += (time.perf_counter() - started) * 1000

    first = geometry_steps(spec.train)  # the first step with all losses
    for step in range(first, first + WARM_UP + steps):
        times.append(defaultdict(float))
        with timed("data"):
            batch = sampler.training(step, trainer.ranks.samples(spec.train.batch)).to(device)
        instrumented_step(trainer, batch, timed)
    return {name: statistics.median(step[name] for step in times[WARM_UP:]) for name in PARTS}


def instrumented_step(trainer: Trainer, batch: Batch, timed: Callable[[str], AbstractContextManager[None]]) -> None:
    """`Trainer.step` with all losses, one part after the other, at the optimizer's current learning rate.

    `timed`: part → a context that measures it.
    """
    trainer.optimizer.zero_grad(set_to_none=True)
    size = trainer.spec.train.micro_batch or len(batch.scenes)
    for start in range(0, len(batch.scenes), size):
        _instrumented_backward(trainer, batch.scenes_at(start, start + size), timed)
    with timed("exchange"):
        trainer.ranks.reduce_gradients(trainer.model)
    with timed("optimizer"):
        norm = torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), trainer.spec.train.gradient_clip)
        trainer.optimizer.update(norm)


def _instrumented_backward(
    trainer: Trainer, batch: Batch, timed: Callable[[str], AbstractContextManager[None]]
) -> None:
    """Eq. 6 of a micro-batch: tensors are detached between the parts, and gradients passed on explicitly."""
    model, scenes = trainer.model, trainer.spec.train.batch
    with timed("encoder"):
        tokens = model.encode(batch.inputs)
    with timed("aggregator"):
        taps = model.aggregate(tokens, batch.inputs)
    with timed("head"):
        output = model.decode(taps, batch.inputs)
    tensors = {k: v for k, v in vars(output).items() if isinstance(v, Tensor) and v.requires_grad}
    leaves = {name: value.detach().requires_grad_() for name, value in tensors.items()}
    detached = replace(output, **leaves)  # type: ignore[type-var]
    with timed("rasterize"):
        rendering = outputs.of(output).render(detached, batch.target_cameras, batch.background)
    image = None if rendering is None else rendering.rgb.detach().requires_grad_()
    prediction = Prediction(detached, None if rendering is None or image is None else replace(rendering, rgb=image))
    with timed("losses"):
        values = [
            trainer.losses[name].weight * term(prediction, batch).sum() / scenes for name, term in trainer.terms.items()
        ]
    with timed("losses backward"):
        torch.autograd.backward(torch.stack(values).sum())
    if rendering is not None and image is not None and image.grad is not None:
        with timed("rasterize backward"):
            torch.autograd.backward(rendering.rgb, image.grad)
    with timed("model backward"):
        torch.autograd.backward(list(tensors.values()), [_gradient(leaf) for leaf in leaves.values()])


def _gradient(leaf: Tensor) -> Tensor:
    """Zero for a leaf that no loss term depends on."""
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
