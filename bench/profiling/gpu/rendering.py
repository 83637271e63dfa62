"""The rasterizer of the device against the others: images, depth, alpha and every gradient."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.profiling.gpu.suite import Measurement, Suite

if TYPE_CHECKING:
    import torch

    from bench.profiling.benchmarks.rendering import Case
    from bench.rendering import Backend

TOLERANCE = 1e-3  # relative difference of an image or a gradient, as ‖a − b‖ / ‖b‖
BUILD = (  # by one compiler for each core, for this card alone
    "from gsplat.cuda._backend import _C\n"
    "assert _C is not None, 'gsplat finds no CUDA toolkit: put nvcc on PATH, or set CUDA_HOME'"
)
SHAPES = {"ball": (2, 2, 32, 500, 0.25), "larger ball": (1, 2, 64, 4096, 0.25), "untrained": (2, 1, 48, 2000, 0.03)}
TRAINING = (8, 4, 256, 262_144)  # scenes, views, pixels, Gaussians: a step of Table 3's models


def measurements() -> list[Measurement]:
    from bench.profiling.benchmarks.rendering import Case

    def comparison(name: str, case: Case) -> Measurement:
        return Measurement("rendering", name, lambda suite: compare(suite, case), 10)

    cases = [comparison(name, Case(*shape)) for name, shape in SHAPES.items()]
    return [*cases, Measurement("rendering", "time at the size of training", timed, 10)]


def compare(suite: Suite, case: Case) -> dict[str, Any]:
    """On a GPU gsplat against the reference and the CPU's kernel; on a CPU the kernel against the reference."""
    suite.background.require()
    cuda = suite.device.type == "cuda"
    first: Backend = "gsplat" if cuda else "compiled"
    others: tuple[Backend, ...] = ("reference", "compiled") if cuda else ("reference",)
    by_back_end = {other: differences(case, first, suite.device, other) for other in others}
    worst = float(np.max([value for values in by_back_end.values() for value in values.values()]))  # NaN if any is
    return {
        "case": asdict(case),
        "back_end": first,
        "differences": by_back_end,
        "worst": worst,
        "tolerance": TOLERANCE,
        "passed": worst < TOLERANCE,
        "summary": f"{first} within {worst:.1e} of {' and '.join(others)}",
    }


def differences(case: Case, ours: Backend, device: torch.device, theirs: Backend) -> dict[str, float]:
    """‖a − b‖ / ‖b‖ of color, depth, alpha and of each gradient; CPU back ends get copies of the same scene."""
    import torch

    from bench.profiling.benchmarks.rendering import scene
    from bench.rendering import render

    def rendered(backend: Backend, where: torch.device) -> dict[str, torch.Tensor]:
        gaussians, cameras, background = scene(case, where)
        image = render(gaussians, cameras, background, backend=backend)
        weight = torch.rand(image.rgb.shape, generator=torch.Generator().manual_seed(1)).to(where)
        loss = (image.rgb * weight).sum() + image.alpha.square().sum() + (image.depth * image.alpha.detach()).sum()
        torch.autograd.backward(loss)
        values = {name: getattr(image, name).detach() for name in ("rgb", "depth", "alpha")}
        values |= {f"gradient of {name}": leaf.grad for name, leaf in vars(gaussians).items()}
        return {name: value.double().cpu() for name, value in values.items()}

    a = rendered(ours, device)
    b = rendered(theirs, device if theirs == "reference" else torch.device("cpu"))
    return {name: float((a[name] - b[name]).norm() / b[name].norm().clamp(min=1e-12)) for name in b}


def timed(suite: Suite, repeats: int = 10) -> dict[str, Any]:
    """Median of forward and backward passes, after one more."""
    import torch

    from bench.profiling.benchmarks.rendering import Case, scene
    from bench.profiling.phases import synchronize
    from bench.rendering import render

    suite.background.require()
    case = Case(1, 1, 32, 500) if suite.tiny else Case(*TRAINING)
    gaussians, cameras, background = scene(case, suite.device)
    times: dict[str, list[float]] = {"forward_ms": [], "backward_ms": []}
    for _ in range(repeats + 1):
        synchronize(suite.device)
        started = time.perf_counter()
        image = render(gaussians, cameras, background)
        synchronize(suite.device)
        rendered = time.perf_counter()
        torch.autograd.backward(image.rgb.square().mean() + image.alpha.mean())
        synchronize(suite.device)
        times["forward_ms"].append((rendered - started) * 1000)
        times["backward_ms"].append((time.perf_counter() - rendered) * 1000)
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    text = f"{medians['forward_ms']:.1f} ms forward, {medians['backward_ms']:.1f} ms backward"
    return {"case": asdict(case), **medians, "summary": text}
