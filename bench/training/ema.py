"""`train.ema`: an exponential moving average of the weights, which a run keeps, validates, draws and evaluates.

It is part of the optimizer's state, as in torch's ASGD: checkpoints hold it, ranks update it without communication,
each its own shards, and frozen parts have none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from bench.training.sharding import local

AVERAGE = "average"  # of a parameter's state


@torch.no_grad()
def update(optimizer: torch.optim.Optimizer, step: int, decay: float) -> None:
    """After the optimizer's step 0, 1, …; a weight's average starts as the weight after its first update.

    Early decays are lower, as in TensorFlow's ExponentialMovingAverage with `num_updates`.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and AVERAGE not in optimizer.state[parameter]:
                optimizer.state[parameter][AVERAGE] = parameter.detach().clone()
    weights, averages = zip(*_pairs(optimizer), strict=True)
    get_ema_multi_avg_fn(min(decay, (1 + step) / (10 + step)))(averages, weights, None)  # type: ignore[no-untyped-call]


@torch.no_grad()
def exchange(optimizer: torch.optim.Optimizer) -> None:
    """Weights and their averages swap values, in place, one at a time."""
    for weight, average in _pairs(optimizer):
        value = weight.clone()
        weight.copy_(average)
        average.copy_(value)


@contextmanager
def averaged(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """The weights have their averages' values here; without averages they are as they are."""
    exchange(optimizer)
    try:
        yield
    finally:
        exchange(optimizer)


def _pairs(optimizer: torch.optim.Optimizer) -> Iterator[tuple[Tensor, Tensor]]:
    """What this rank holds of each weight that has an average, and of that."""
    for parameter, state in optimizer.state.items():
        if AVERAGE in state:
            yield local(parameter), local(state[AVERAGE])
