"""All measurements of the suite, the most valuable first, and what is prepared beside them."""

from __future__ import annotations

import os
from collections.abc import Sequence

from bench.common.errors import UserError
from bench.profiling.gpu import cost, rates, rendering, training
from bench.profiling.gpu.suite import Measurement, Suite, find, is_due

PARTS = ("rates", "rendering", "cost", "training", "estimates")
ESTIMATING = 4  # processes that trace estimates: the compilers of gsplat need cores, too


def all_measurements() -> list[Measurement]:
    """In order. The first needs no gsplat, which is being built."""
    products, launches = rates.measurements()
    *comparisons, time_at_size = rendering.measurements()
    models, two = cost.measurements("cost"), 2 * len(cost.REGIMES)  # the first two models in each regime
    agreement, *agreements = training.agreements()
    return [
        products, *comparisons, *models[:two], agreement, launches, *models[two:], training.short_run(),
        *cost.measurements("estimates"), time_at_size, *agreements,
    ]  # fmt: skip


def start_background(suite: Suite, measurements: Sequence[Measurement], retry: bool) -> None:
    """What those among these that will run need from the CPU. On a GPU with gsplat's build, for this card alone."""
    due = [each for each in measurements if is_due(find(suite, each), retry)]
    if not due:
        return
    environment = dict(os.environ)
    if suite.device.type == "cuda":
        suite.background.required = "gsplat's build"
        suite.background.start(suite.background.required, rendering.BUILD, environment)
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}  # these leave the GPU alone
    cases = [each.name for each in due if each.part in ("cost", "estimates")]
    for i in range(min(ESTIMATING, len(cases))):
        share = cases[i::ESTIMATING]
        code = f"from bench.profiling.gpu import cost; cost.prepare({share}, {suite.tiny}, {suite.device.type!r})"
        suite.background.start(f"estimates of {', '.join(share)}", code, environment)
    if any(each.part == "training" for each in due):
        code = f"from bench.profiling.gpu import training; training.prepare({suite.tiny})"
        suite.background.start("scenes", code, environment)


def prepare_cuda() -> None:
    """Let gsplat build its kernels for this GPU alone. Raises UserError without a GPU."""
    import torch

    if not torch.cuda.is_available():
        raise UserError("torch finds no CUDA device; use --device cpu --size tiny to exercise the suite without one")
    major, minor = torch.cuda.get_device_capability()
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", f"{major}.{minor}")
    os.environ.setdefault("MAX_JOBS", str(os.cpu_count() or 1))
