"""What a training step costs: the harness over a plain loop, and where the step's time goes by part."""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench import spec as specs
from bench.data.batch import Batch
from bench.data.sampler import Sampler, batches, open_source
from bench.losses import Prediction
from bench.optimiser import geometry_steps, learning_rate
from bench.record import PlainWriter
from bench.rendering import render
from bench.train import Trainer, train
from models.tensors import Gaussians

if TYPE_CHECKING:
    from bench.data.scene import DataSource
    from bench.spec.schema import RunSpec

CPU = torch.device("cpu")
PARTS = ("data", "encoder", "aggregator", "head", "rasterise", "losses", "losses backward", "rasterise backward",
         "model backward", "optimiser")  # fmt: skip


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.benchmark step", description=__doc__)
    parser.add_argument("spec", nargs="?", type=Path, default=Path("ablations/table3.yaml"))
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--steps", type=int, default=10, help="timed steps by part (default 10)")
    parser.add_argument("--rounds", type=int, default=8, help="rounds of harness against plain loop (default 8)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    runs = specs.load(options.spec, options.overrides, "tiny").runs
    source = open_source(runs[0].spec)
    print(f"{options.threads} threads; times are medians")
    totals = {}
    for run in runs:
        times = by_part(run.spec, source, options.steps)
        totals[run.label] = total = sum(times.values())
        print(f"\n{run.label}: {total:.1f} ms a step of {run.spec.train.batch} scenes")
        for name in PARTS:
            print(f"  {name:<20}{times[name]:9.2f} ms  {times[name] / total:6.1%}")
    cheapest = min(runs, key=lambda run: totals[run.label])
    harness, plain = overhead(cheapest.spec, source, options.rounds)
    print(f"\nHarness over a plain loop ({cheapest.label}, one scene a step, L_3D alone; tenth percentiles)")
    print(
        f"  plain {plain:.2f} ms, harness {harness:.2f} ms a step: {harness - plain:+.2f} ms, × {harness / plain:.3f}"
    )
    return 0


def by_part(spec: RunSpec, source: DataSource, steps: int) -> dict[str, float]:
    """Milliseconds of each part of a step with all losses: medians, clocks between the parts and no profiler."""
    trainer = Trainer(spec, CPU)
    sampler = Sampler(source, spec.views, spec.seed, spec.model.poses)
    times: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        times[name].append((time.perf_counter() - started) * 1000)

    first = geometry_steps(spec.train)
    for step in range(first, first + 3 + steps):
        with timed("data"):
            batch = sampler.training(step, range(spec.train.batch))
        parted_step(trainer, batch, timed)
    return {name: statistics.median(values[3:]) for name, values in times.items()}


def parted_step(trainer: Trainer, batch: Batch, timed: Callable[[str], AbstractContextManager[None]]) -> None:
    """One step, cut at its borders: tensors are detached there, and gradients handed over by hand."""
    model = trainer.model
    trainer.optimiser.zero_grad(set_to_none=True)
    with timed("encoder"):
        tokens = model.encoder(batch.inputs)
    with timed("aggregator"):
        taps = model.aggregator(tokens, model.levels)
    with timed("head"):
        made = fields(model.output(model.head(taps, batch.inputs), batch.inputs))
    leaves = [value.detach().requires_grad_() for value in made]
    with timed("rasterise"):
        rendering = render(Gaussians(*leaves), batch.target_cameras, batch.background)
    image = rendering.rgb.detach().requires_grad_()
    prediction = Prediction(Gaussians(*leaves), replace(rendering, rgb=image))
    with timed("losses"):
        values = [trainer.losses[name].weight * term(prediction, batch).mean() for name, term in trainer.terms.items()]
    with timed("losses backward"):
        torch.autograd.backward(torch.stack(values).sum())
    with timed("rasterise backward"):
        torch.autograd.backward(rendering.rgb, image.grad)
    with timed("model backward"):
        torch.autograd.backward(made, [leaf.grad for leaf in leaves])
    with timed("optimiser"):
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), trainer.spec.train.gradient_clip)
        trainer.optimiser.update(norm)


def fields(gaussians: Gaussians) -> list[Tensor]:
    return [gaussians.means, gaussians.rotations, gaussians.scales, gaussians.opacities, gaussians.harmonics]


def overhead(spec: RunSpec, source: DataSource, rounds: int, steps: int = 30) -> tuple[float, float]:
    """Milliseconds a step of `bench.train` and of a plain loop, in turn: tenth percentiles, which neighbours disturb
    least, of the cheapest step, which shows a difference best."""
    short = replace(spec.train, steps=steps, batch=1, warmup_steps=0, geometry_first=1.0, checkpoint_every=steps)
    spec = replace(spec, train=short, losses={"points": spec.losses["points"]})
    times: dict[str, list[float]] = {"harness": [], "plain": []}
    for _ in range(rounds):
        for name, loop in (("harness", harness_loop), ("plain", plain_loop)):
            ends: list[float] = []
            loop(spec, source, lambda ends=ends: ends.append(time.perf_counter()))  # type: ignore[misc]
            times[name] += [(b - a) * 1000 for a, b in pairwise(ends[3:-1])]
    harness, plain = (sorted(values)[len(values) // 10] for values in times.values())
    return harness, plain


def harness_loop(spec: RunSpec, source: DataSource, tick: Callable[[], None]) -> None:
    def stop() -> bool:
        tick()
        return False

    with TemporaryDirectory() as folder:
        train(spec, PlainWriter(Path(folder)), device=CPU, source=source, stop=stop)


def plain_loop(spec: RunSpec, source: DataSource, tick: Callable[[], None]) -> None:
    """The same steps without records, health, checkpoints or any other care."""
    trainer = Trainer(spec, CPU)
    model, optimiser, term = trainer.model, trainer.optimiser, trainer.terms["points"]
    steps = range(spec.train.steps)
    for step, batch in zip(steps, batches(Sampler(source, spec.views, spec.seed), steps, range(1)), strict=True):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, spec.train)
        optimiser.zero_grad()
        loss = 10 * term(Prediction(model(batch.inputs), None), batch).mean()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), spec.train.gradient_clip)
        optimiser.step()
        loss.item()
        tick()
