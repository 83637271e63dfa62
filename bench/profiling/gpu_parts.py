"""The parts of the GPU suite: each writes one JSON file, independently of the others."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.common.errors import UserError
from bench.common.json_files import write_json
from bench.common.paths import SOURCE
from bench.runs.folder import RunFolder
from bench.runs.writer import PlainWriter

if TYPE_CHECKING:
    import torch

    from bench.config.schema import RunSpec
    from bench.rendering import Backend


MODELS = ("freesplatter", "ours1", "ours2")
TOLERANCE = 1e-3  # relative difference of an image or a gradient, as ‖a − b‖ / ‖b‖
FEW_SCENES = ["data=procedural", *(f"data.{split}_scenes=16" for split in ("training", "validation", "evaluation"))]

RESERVE_S = 60  # kept for evaluating the short training


@dataclass(frozen=True)
class Suite:
    """Where it writes and runs, at which size, and until when."""

    output: Path
    device: torch.device
    tiny: bool
    deadline: float  # time.monotonic()

    def remaining_s(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()


def run_part(suite: Suite, name: str) -> bool:
    """Run a part and write <out>/<name>.json, also on failure; whether it passed."""
    from bench.runtime import provenance

    started = time.monotonic()
    result: dict[str, Any] = {"part": name, "provenance": provenance.of_process(suite.device, _threads())}
    if suite.remaining_s() <= 0:
        result |= {"state": "skipped", "message": "no time left"}
    else:
        try:
            result |= {"state": "done", **PARTS[name](suite)}
        except Exception as error:
            result |= {"state": "failed", "message": str(error), "trace": traceback.format_exc().splitlines()[-12:]}
    result["seconds"] = round(time.monotonic() - started, 1)
    write_json(suite.output / f"{name}.json", result)
    print(f"{name}: {result['state']}, {result['seconds']} s  {result.get('message', result.get('summary', ''))}")
    return bool(result["state"] == "done")


def rendering(suite: Suite) -> dict[str, Any]:
    """Every back end of the device against the reference; on CUDA also gsplat against the CPU kernel."""
    from bench.profiling.benchmarks.rendering import Case, measure

    first: Backend = "gsplat" if suite.device.type == "cuda" else "compiled"
    cases = [Case(2, 2, 32, 500), Case(1, 2, 64, 4096), Case(2, 1, 48, 2000, spread=0.03)]
    rows: list[dict[str, Any]] = [
        {"case": vars(case), "against": against, "differences": differences(case, first, suite.device, against)}
        for case in cases
        for against in (("reference", "compiled") if suite.device.type == "cuda" else ("reference",))
    ]
    worst = max(value for row in rows for value in row["differences"].values())
    times: list[dict[str, Any]] = []
    if suite.device.type == "cuda":
        times = [measure(case, first, suite.device, 10) for case in (Case(8, 4, 256, 262_144),)]
    result = {"back_end": first, "rows": rows, "worst": worst, "tolerance": TOLERANCE, "times": times}
    if not worst < TOLERANCE:
        raise UserError(f"{first} differs by {worst:.2e}, more than {TOLERANCE}: {rows}")
    return result | {"summary": f"{first} within {worst:.1e} of {'reference and CPU kernel' if times else 'reference'}"}


def differences(case: Any, ours: Backend, device: torch.device, theirs: Backend) -> dict[str, float]:
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


def cost(suite: Suite) -> dict[str, Any]:
    """Table 3's right-hand columns for one GPU's share of the batch, with random weights.

    Only the positions of the Gaussians make their cost differ from that of trained weights.
    """
    import torch

    from bench.data.sampler import open_source
    from bench.profiling.step_profile import measure

    rows: dict[str, Any] = {}
    for model in MODELS:
        extra = ["train.batch=2"] if suite.tiny else ["train.batch=8"]
        spec = resolve(model, suite, [*FEW_SCENES, "init.encoder=scratch", "views.choice=rig", *extra])
        if suite.remaining_s() <= 0:
            rows[model] = {"state": "skipped"}
            continue
        try:
            rows[model] = measure(spec, device=suite.device, source=open_source(spec.data, spec.model.image_size))
        except torch.cuda.OutOfMemoryError as error:
            rows[model] = {"state": "oom", "message": str(error).splitlines()[0]}
        if suite.device.type == "cuda":
            torch.cuda.empty_cache()
        write_json(suite.output / "cost.partial.json", rows)
    (suite.output / "cost.partial.json").unlink()
    return {"models": rows, "summary": {name: row.get("step_time_ms", row.get("state")) for name, row in rows.items()}}


def training(suite: Suite) -> dict[str, Any]:
    """Ours2 (scratch) at scale small, to the end or until RESERVE_S before the deadline; then its metrics."""
    from bench.data.sampler import open_source
    from bench.evaluation.evaluate import evaluate
    from bench.training.train import Stopped, train

    small = ["train.steps=4", "train.warmup_steps=1", "train.batch=2", "evaluation.scenes=2"]
    few = ["train.steps=1000", "data.training_scenes=256", "data.evaluation_scenes=32", "evaluation.scenes=32"]
    spec = resolve("ours2", suite, FEW_SCENES + small if suite.tiny else few, scale="small")
    source = open_source(spec.data, spec.model.image_size)
    writer = PlainWriter(suite.output / "training")
    train_started = time.monotonic()
    try:
        train(spec, writer, device=suite.device, source=source, stop=lambda: suite.remaining_s() < RESERVE_S)
    except Stopped as error:
        records = RunFolder(writer.folder).metrics()
        return {"stopped": str(error), "first": records[0], "last": records[-1], "summary": str(error)}
    records, seconds = RunFolder(writer.folder).metrics(), time.monotonic() - train_started
    evaluate(spec, writer, device=suite.device, source=source, protocol=spec.evaluation.protocols[0])
    (result,) = RunFolder(writer.folder).evaluations().values()
    baselines = {name: baseline["means"] for name, baseline in result["baselines"].items()}
    return {
        "steps": len(records),
        "training_s": seconds,
        "first": records[0],
        "last": records[-1],
        "means": result["means"],
        "baselines": baselines,
        "summary": f"{len(records)} steps, PSNR {result['means']['psnr']:.2f} dB",
    }


PARTS: dict[str, Callable[[Suite], dict[str, Any]]] = {"rendering": rendering, "cost": cost, "training": training}


def resolve(model: str, suite: Suite, overrides: list[str], scale: str = "paper") -> RunSpec:
    """A base of ablations/ at a scale; at tiny if the suite is only to exercise every path."""
    from bench import config as spec

    (run,) = spec.load(SOURCE / "ablations" / "base" / f"{model}.yaml", overrides, "tiny" if suite.tiny else scale).runs
    return run.spec


def prepare_cuda() -> None:
    """Let gsplat build its kernels for this GPU alone. Raises UserError without a GPU."""
    import torch

    if not torch.cuda.is_available():
        raise UserError("torch finds no CUDA device; use --device cpu --size tiny to exercise the suite without one")
    major, minor = torch.cuda.get_device_capability()
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", f"{major}.{minor}")
    os.environ.setdefault("MAX_JOBS", str(os.cpu_count() or 1))


def _threads() -> int:
    import torch

    return torch.get_num_threads()
