"""Training on the device: step for step as on a CPU, and a short run at scale small that is evaluated."""

from __future__ import annotations

import tempfile
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.common.paths import SOURCE
from bench.profiling.gpu.suite import Measurement, Suite

if TYPE_CHECKING:
    import torch

    from bench.config.schema import RunSpec

MODELS = ("ours2", "freesplatter", "ours1")  # of Table 3
STEPS, TINY_STEPS = 20, 3
TOLERANCE = 1e-3  # relative difference of a loss term at any of the steps
FP32 = (
    *(f"model.precision.{part}=fp32" for part in ("encoder", "aggregator", "head")),
    "train.matmul_precision=highest",
    "train.learning_rate=5.0e-5",  # the paper's: higher ones amplify rounding
    "train.warmup_steps=2",
    "train.batch=2",
)
SCENES = ("data.training_scenes=16", "data.validation_scenes=0", "data.evaluation_scenes=2", "evaluation.scenes=2")
SHORT = {  # of the short run
    "tiny": (*SCENES, "train.steps=4", "train.warmup_steps=1", "train.batch=2"),
    "paper": ("train.steps=600", "data.training_scenes=128", "data.validation_scenes=0", "data.evaluation_scenes=32",
              "evaluation.scenes=32"),
}  # fmt: skip
SHORT_S, EVALUATION_S = 90.0, 30.0  # at most; of which the evaluation


def agreements() -> list[Measurement]:
    def agreement(model: str) -> Measurement:
        return Measurement("training", f"steps of {model} as on a CPU", lambda suite: agree(suite, model), 20)

    return [agreement(model) for model in MODELS]


def short_run() -> Measurement:
    return Measurement("training", "short run of ours2", train_shortly, SHORT_S + EVALUATION_S)


def agree(suite: Suite, model: str) -> dict[str, Any]:
    """The same steps of a tiny model on the device and on a CPU, in fp32. Where the device is a CPU, with the
    plain-torch rasterizer against the compiled one."""
    import torch

    suite.background.require()
    spec = _spec(model, "tiny", (*FP32, *SCENES, f"train.steps={TINY_STEPS if suite.tiny else STEPS}"))
    cpu = torch.device("cpu")
    theirs = trajectory(spec, cpu, plain=False)
    ours = trajectory(spec, suite.device, plain=suite.device == cpu)
    differences = [
        abs(a - b) / max(abs(b), 1e-12)
        for name, losses in theirs.items()
        for a, b in zip(ours[name], losses, strict=True)
    ]
    worst = float(np.max(differences))  # NaN if any is
    return {
        "ours": ours,
        "cpu": theirs,
        "worst": worst,
        "tolerance": TOLERANCE,
        "passed": worst < TOLERANCE,
        "summary": f"losses of {spec.train.steps} steps within {worst:.1e}",
    }


def trajectory(spec: RunSpec, device: torch.device, plain: bool) -> dict[str, list[float]]:
    """{loss term: its value at each step}; `plain`: drawn by the plain-torch rasterizer."""
    import torch

    from bench.data.sampler import Sampler, open_source
    from bench.rendering import automatic_backend
    from bench.training.trainer import Trainer

    source = open_source(spec.data, spec.model.image_size, progress=False)
    sampler = Sampler(source, spec.views, spec.seed, spec.model.known)
    trainer = Trainer(spec, device)
    torch.backends.cudnn.allow_tf32 = False  # until the next trainer sets it again (bench.runtime.numerics)
    records = []
    with automatic_backend("reference") if plain else nullcontext():
        for step in range(spec.train.steps):
            values = trainer.step(step, sampler.training(step, range(spec.train.batch)).to(device))
            records.append({name: float(value) for name, value in values.items() if name.startswith("loss")})
    return {name: [record[name] for record in records if name in record] for name in records[-1]}


def train_shortly(suite: Suite) -> dict[str, Any]:
    """Ours2 at scale small: its losses, step by step, and its metrics; none of these if it has to stop early."""
    from bench.data.sampler import open_source
    from bench.evaluation.evaluate import evaluate
    from bench.runs.folder import RunFolder
    from bench.runs.writer import PlainWriter
    from bench.training.train import Stopped, train

    suite.background.require()
    spec = _spec("ours2", "small", SHORT["tiny" if suite.tiny else "paper"])
    source = open_source(spec.data, spec.model.image_size, progress=False)
    with tempfile.TemporaryDirectory() as folder:  # weights are not kept
        writer, run = PlainWriter(Path(folder) / "run"), RunFolder(Path(folder) / "run")
        end = min(time.monotonic() + SHORT_S, suite.deadline - EVALUATION_S)
        try:
            train(spec, writer, device=suite.device, source=source, stop=lambda: time.monotonic() > end)
        except Stopped as error:
            return {"steps": _trace(run.metrics()), "summary": str(error)}
        evaluate(spec, writer, device=suite.device, source=source, protocol=spec.evaluation.protocols[0])
        trained, (result,) = run.training() or {}, run.evaluations().values()
        trace = _trace(run.metrics())
    first, last = trace["loss"][0], trace["loss"][-1]
    seconds = trained["training_s"]
    return {
        "steps": trace,
        "training_s": seconds,
        "data_wait_share": trained["data_wait_share"],
        "means": result["means"],
        "baselines": {name: baseline["means"] for name, baseline in result["baselines"].items()},
        "summary": f"{len(trace['loss'])} steps in {seconds:.0f} s, loss {first:.3f} → {last:.3f}, "
        f"PSNR {result['means']['psnr']:.2f} dB",
    }


def _trace(records: list[dict[str, Any]]) -> dict[str, list[float | None]]:
    """{column: its value at each step}, six digits each; None at steps that do not have it."""
    columns = sorted(
        {name for record in records for name in record if name.startswith(("loss", "step_time", "data_wait"))}
    )
    return {
        name: [None if record.get(name) is None else float(f"{record[name]:.6g}") for record in records]
        for name in columns
    }


def _spec(model: str, scale: str, overrides: tuple[str, ...]) -> RunSpec:
    """A base on procedural scenes, from scratch."""
    from bench import config
    from bench.config.schema import InitSpec

    path = SOURCE / "ablations" / "base" / f"{model}.yaml"
    (run,) = config.load(path, ["data=procedural", *overrides], scale).runs
    return replace(run.spec, init=InitSpec())


def prepare(tiny: bool) -> None:
    """The scenes of all of these."""
    from bench.data.sampler import open_source

    for spec in (_spec("ours2", "small", SHORT["tiny" if tiny else "paper"]), _spec("ours2", "tiny", SCENES)):
        open_source(spec.data, spec.model.image_size, progress=False)
