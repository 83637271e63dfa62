"""Time of a training step: the harness against a plain loop, and the breakdown by part."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch

from bench import config as specs
from bench.data.sampler import Sampler, batches, open_source
from bench.losses import Prediction
from bench.profiling.phases import PHASES, time_by_phase
from bench.runs.writer import PlainWriter
from bench.training.optimizer import learning_rate
from bench.training.train import train
from bench.training.trainer import Trainer

if TYPE_CHECKING:
    from bench.config.schema import RunSpec
    from bench.data.scene import DataSource

CPU = torch.device("cpu")


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
    source = open_source(runs[0].spec.data, runs[0].spec.model.image_size)
    print(f"{options.threads} threads; times are medians")
    totals = {}
    for run in runs:
        measured = time_by_phase(Trainer(run.spec, CPU), source, options.steps)
        times = measured.phases_ms()
        totals[run.label] = total = sum(times.values())
        print(f"\n{run.label}: {total:.1f} ms per step of {run.spec.train.batch} scenes; measuring phases added "
              f"{measured.overhead():+.1%}")  # fmt: skip
        for name in PHASES:
            print(f"  {name:<20}{times[name]:9.2f} ms  {times[name] / total:6.1%}")
    cheapest = min(runs, key=lambda run: totals[run.label])
    harness, plain = overhead(cheapest.spec, source, options.rounds)
    print(f"\nHarness over a plain loop ({cheapest.label}, one scene per step, L_3D alone; tenth percentiles)")
    print(
        f"  plain {plain:.2f} ms, harness {harness:.2f} ms per step: {harness - plain:+.2f} ms, × {harness / plain:.3f}"
    )
    return 0


def overhead(spec: RunSpec, source: DataSource, rounds: int, steps: int = 30) -> tuple[float, float]:
    """Milliseconds per step of (`bench.training.train`, a plain loop), measured alternately.

    Tenth percentiles, which other processes disturb least, of the cheapest step, which shows a difference best.
    """
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
    """`bench.training.train`; `tick` is called at every step."""

    def stop() -> bool:
        tick()
        return False

    with TemporaryDirectory() as folder:
        train(spec, PlainWriter(Path(folder)), device=CPU, source=source, stop=stop)


def plain_loop(spec: RunSpec, source: DataSource, tick: Callable[[], None]) -> None:
    """The same steps without metrics, diagnostics and checkpoints."""
    trainer = Trainer(spec, CPU)
    model, optimizer, term = trainer.model, trainer.optimizer, trainer.terms["points"]
    steps = range(spec.train.steps)
    for step, batch in zip(steps, batches(Sampler(source, spec.views, spec.seed), steps, range(1)), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, spec.train)
        optimizer.zero_grad()
        loss = 10 * term(Prediction(model(batch.inputs), None), batch).mean()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), spec.train.gradient_clip)
        optimizer.step()
        loss.item()
        tick()
