"""What a trained model costs to use: one scene at a time, without gradients."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from bench import outputs
from bench.data.batch import Batch
from bench.outputs.gaussians import TRANSPARENT
from bench.profiling.allocator_events import peak_allocated
from bench.profiling.phases import synchronize
from models.ead import EAD
from models.tensors import Gaussians

WARM_UP, REPEATS = 2, 10
GIB = 2**30
DEFINITIONS = {
    "inference": f"one scene, without gradients, not compiled, medians of {REPEATS} after {WARM_UP}: `latency_ms` of "
    "E, A and D; `peak_memory_gib` of weights and what it allocates (torch.cuda.max_memory_allocated; on a CPU by a "
    "profiler's allocator events); `gaussians` of the scene, and `kept_gaussians`, those of an opacity above "
    f"{TRANSPARENT}; `views_per_s`: target views that are rendered, of the training's size",
}


@torch.no_grad()
@torch.compiler.set_stance("force_eager")  # type: ignore[untyped-decorator]
def measure_inference(model: EAD, batch: Batch) -> dict[str, float | int | None]:
    """Of the batch's first scene, ready for JSON; None for what the output does not have."""
    scene, device = batch.scenes_at(0, 1), batch.targets.device
    training = model.training
    model.eval()
    try:
        latency_ms = _median_ms(lambda: model(scene.inputs), device)
        peak = peak_allocated(lambda: model(scene.inputs), [*model.parameters(), *model.buffers()], device)
        output = model(scene.inputs)
        kind = outputs.of(output)
        rendered_ms = None
        if kind.render(output, scene.target_cameras, scene.background) is not None:
            rendered_ms = _median_ms(lambda: kind.render(output, scene.target_cameras, scene.background), device)
    finally:
        model.train(training)
    opacities = output.opacities if isinstance(output, Gaussians) else None
    views = scene.targets.shape[1]
    return {
        "latency_ms": latency_ms,
        "peak_memory_gib": peak / GIB,
        "gaussians": None if opacities is None else opacities.numel(),
        "kept_gaussians": None if opacities is None else int((opacities > TRANSPARENT).sum()),
        "views_per_s": None if rendered_ms is None else views / rendered_ms * 1000,
    }


def _median_ms(compute: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(WARM_UP + REPEATS):
        synchronize(device)
        started = time.perf_counter()
        compute()
        synchronize(device)
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times[WARM_UP:])
