"""A training step does not make the host wait for a GPU: it makes no tensors of numbers of the host's: copying waits.

That it reads no values estimates show (tests/profiling/test_estimate.py), whose tensors have none. What stays: gsplat
reads how many tiles the Gaussians cover.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from support.balls import Balls
from support.base_models import BASES
from support.training import CPU
from torch.utils._python_dispatch import TorchDispatchMode

from bench import config
from bench.data.sampler import Sampler
from bench.training.trainer import Trainer

WAITS = ("lift_fresh", "nonzero", "masked_select", "_linalg_check_errors", "equal")
WAITING = ("mast3r", "croco")  # how many pixels match depends on values; masks are drawn on the host
NAMES = sorted(path.stem for path in BASES.glob("*.yaml") if path.stem not in WAITING)


class Waits(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name in WAITS:
            self.seen.add(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("base", NAMES)
def test_a_step_does_not_wait(base: str) -> None:
    changes = ["train.batch=1", "losses.lpips=null", "init.encoder=scratch", "train.regime=lean"]
    (run,) = config.load(BASES / f"{base}.yaml", changes, "tiny").runs
    trainer = Trainer(run.spec, CPU)
    sampler = Sampler(Balls(32), run.spec.views, 0, run.spec.model.known)
    batch, step = sampler.training(1, range(1)), run.spec.train.steps - run.spec.train.steps % 10  # with statistics
    with Waits() as waits:
        trainer.step(step, batch)
    assert not waits.seen


def test_waits_are_seen() -> None:
    with Waits() as waits:
        torch.ones(2).new_tensor([1.0, 2.0])
        torch.linalg.inv(torch.eye(2))
    assert waits.seen == {"lift_fresh", "_linalg_check_errors"}
