"""Estimate ÷ measured on a CPU: the most that tensors hold in a training step of tiny models of every kind.

Measured by a profiler's allocator events (bench/profiling/allocator_events.py) in a real step. With `--scale paper` in
one of the paper's models, with a batch of one scene: minutes and 12 GiB.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from rich.table import Table

from bench import config
from bench.common.console import command_console
from bench.common.paths import SOURCE
from bench.data.sampler import Sampler, open_source
from bench.profiling.allocator_events import peak_allocated_bytes
from bench.profiling.estimate.estimate import step_cost
from bench.profiling.estimate.fake_step import dearest_step
from bench.profiling.estimate.memory import GIB, from_allocator_gib
from bench.training.trainer import Trainer

GOAL = 0.1  # relative difference
SCENES = {"tiny": 8, "paper": 1}  # of each split
MIXED = ("model.precision.aggregator=bf16", "model.precision.head=bf16", "train.micro_batch=2")

RECOMPUTED = tuple(f"train.recompute.{part}=block" for part in ("encoder", "aggregator", "head"))


@dataclass(frozen=True)
class Case:
    """A base, and what is changed, with a name for it."""

    base: str
    change: str = ""
    overrides: tuple[str, ...] = ()
    scale: str = "tiny"

    @property
    def label(self) -> str:
        return ", ".join(filter(None, (self.base, self.change)))


CASES = (
    *(Case(base) for base in ("freesplatter", "ours1", "ours2")),
    *(Case(base, "A and D in bf16, micro-batches", MIXED) for base in ("freesplatter", "ours1", "ours2")),
    *(Case(base, "blocks recomputed", RECOMPUTED) for base in ("ours1", "ours2", "vggt")),
    *(Case(base, "lean regime", ("train.regime=lean",)) for base in ("freesplatter", "ours2", "lrm")),
    *(Case(base) for base in ("gs_lrm", "lrm", "pf_lrm", "splatt3r", "dust3r", "croco", "vggt")),
)

FP32 = ("model.precision.aggregator=fp32", "model.precision.head=fp32")  # CPUs without AMX take minutes for bf16
ONE_SCENE = ("data=procedural", "train.batch=1", "init.encoder=scratch", *FP32)
PAPER_CASES = tuple(Case(base, "paper, fp32", ONE_SCENE, "paper") for base in ("freesplatter", "ours1", "ours2"))


@dataclass(frozen=True)
class Comparison:
    """Bytes."""

    case: Case
    estimated: float
    measured: float

    @property
    def ratio(self) -> float:
        return self.estimated / self.measured


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.benchmark estimate", description=__doc__)
    parser.add_argument("--scale", default="tiny", choices=("tiny", "paper"))
    parser.add_argument("--only", default="", metavar="TEXT", help="configurations whose name contains it")
    options = parser.parse_args(argv)
    console = command_console(to_stderr=False)
    table = Table(title=f"Estimate ÷ measured, allocated, CPU, torch {torch.__version__}")
    table.add_column("configuration", overflow="fold")
    for heading in ("estimate, MiB", "measured, MiB", "ratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    cases = PAPER_CASES if options.scale == "paper" else CASES
    rows = list(compare([case for case in cases if options.only in case.label]))
    for row in rows:
        cells = [f"{row.estimated / 2**20:.1f}", f"{row.measured / 2**20:.1f}", f"{row.ratio:.3f}"]
        table.add_row(row.case.label, *cells, style="yellow" if abs(row.ratio - 1) > GOAL else None)
    console.print(table)
    within = sum(abs(row.ratio - 1) <= GOAL for row in rows)
    console.print(f"{within} of {len(rows)} within {GOAL:.0%}", highlight=False)
    return 0


def compare(cases: Sequence[Case]) -> Iterator[Comparison]:
    """Estimate each, then measure it."""
    for case in cases:
        path = SOURCE / "ablations" / "base" / f"{case.base}.yaml"
        scenes = [f"data.{split}_scenes={SCENES[case.scale]}" for split in ("training", "validation", "evaluation")]
        (run,) = config.load(path, [*scenes, *case.overrides], case.scale).runs
        spec = run.spec
        estimated = from_allocator_gib(step_cost(spec, 1, "cpu").memory) * GIB
        trainer = Trainer(spec, torch.device("cpu"))
        sampler = Sampler(open_source(spec.data, spec.model.image_size), spec.views, spec.seed, spec.model.known)
        step = dearest_step(spec)
        batch = sampler.training(step, range(spec.train.batch))
        yield Comparison(case, estimated, peak_allocated_bytes(trainer, step, batch))
