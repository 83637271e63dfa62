"""Time of a training step: by phase, and the harness against a plain loop, also with busy neighbors."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
NEIGHBORS = (0, 1, 2)  # busy processes beside the measured one


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.benchmark step", description=__doc__)
    parser.add_argument("spec", nargs="?", type=Path, default=Path("ablations/table3.yaml"))
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--steps", type=int, default=10, help="steps timed by phase (default 10)")
    parser.add_argument("--rounds", type=int, default=8, help="rounds of harness against plain loop (default 8)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    runs = specs.load(options.spec, options.overrides, "tiny").runs
    runs = [run for run in runs if run.spec.seed == runs[0].spec.seed]  # other seeds cost the same
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
    print(f"\nHarness over a plain loop ({cheapest.label}, one scene per step, L_3D alone), {options.rounds} rounds")
    for neighbors in NEIGHBORS:
        with busy_neighbors(neighbors):
            print(f"  {neighbors} busy neighbors: {overhead(cheapest.spec, source, options.rounds)}")
    return 0


@dataclass
class Overhead:
    """Of a step: medians of each loop, a line a round: (milliseconds by the clock, of the thread's processor time)."""

    harness: list[tuple[float, float]]
    plain: list[tuple[float, float]]

    def difference_ms(self, clock: int) -> float:
        """The median over rounds, both of whose loops saw the machine alike; 0: by the clock, 1: of processor time."""
        return statistics.median(h[clock] - p[clock] for h, p in zip(self.harness, self.plain, strict=True))

    def ratio(self) -> float:
        return statistics.median(h[0] / p[0] for h, p in zip(self.harness, self.plain, strict=True))

    def __str__(self) -> str:
        return (
            f"plain {statistics.median(p[0] for p in self.plain):.2f} ms a step, harness {self.difference_ms(0):+.2f} "
            f"ms, × {self.ratio():.3f}; processor time {self.difference_ms(1):+.2f} ms"
        )


def overhead(spec: RunSpec, source: DataSource, rounds: int, steps: int = 40) -> Overhead:
    """`bench.training.train` and a plain loop in turn, the order reversed in every other round.

    Of the cheapest step, which shows a difference best.
    """
    short = replace(spec.train, steps=steps, batch=1, warmup_steps=0, geometry_first=1.0, checkpoint_every=steps)
    spec = replace(spec, train=short, losses={"points": spec.losses["points"]})
    measured = Overhead([], [])
    loops = [(measured.harness, harness_loop), (measured.plain, plain_loop)]
    for _ in range(rounds):
        for medians, loop in loops:
            ends: list[tuple[float, float]] = []
            loop(spec, source, lambda ends=ends: ends.append((time.perf_counter(), time.thread_time())))  # type: ignore[misc]
            wall, cpu = ([(b - a) * 1000 for a, b in pairwise(of_clock)] for of_clock in zip(*ends[3:-1], strict=True))
            medians.append((statistics.median(wall), statistics.median(cpu)))
        loops.reverse()
    return measured


@contextmanager
def busy_neighbors(count: int) -> Iterator[None]:
    """Processes that each keep a core busy, for a block, and end with this one however it ends."""
    busy = f"import os\nwhile os.getppid() == {os.getpid()}: pass"
    processes = [subprocess.Popen([sys.executable, "-c", busy]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


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
