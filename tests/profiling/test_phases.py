"""Phases are those of the trainer's own step, whatever the switches; recording them changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from support.balls import Balls
from support.paths import ROOT, TESTS
from support.training import CPU, SIZE, batch_of, spec

from bench.config.schema import RecomputeSpec
from bench.profiling.phases import BACKWARD, FEWEST, PHASES, PhaseRecorder, step_times, time_by_phase
from bench.training.trainer import Trainer
from models.phases import recording

STEP = 10  # with all losses and statistics
SWITCHES = {
    "plain": spec(),
    "micro-batches": spec(micro_batch=2),
    "recomputed": spec(recompute=RecomputeSpec(aggregator="block")),
}


@pytest.mark.parametrize("of", SWITCHES.values(), ids=SWITCHES)
def test_a_recorded_step_is_the_step(of: object) -> None:
    """Bit by bit the same weights; every phase of a step with all losses has its time."""
    plain, recorded = Trainer(of, CPU), Trainer(of, CPU)
    batch, recorder = batch_of(of, STEP), PhaseRecorder(CPU)
    plain.step(STEP, batch)
    with recording(recorder):
        recorded.step(STEP, batch)
    torch.testing.assert_close(recorded.model.state_dict(), plain.model.state_dict(), rtol=0, atol=0)
    times = recorder.times_ms()
    assert list(times) == list(PHASES) and min(times.values()) > 0


def test_phases_of_steps_add_up() -> None:
    """Nothing is counted twice or lost: the phases of a recorded step are its time."""
    times = time_by_phase(Trainer(spec(), CPU), Balls(SIZE), steps=4)
    assert len(times.plain_ms) == len(times.recorded_ms) == len(times.phases) == 4
    for step, phases in zip(times.recorded_ms, times.phases, strict=True):
        assert sum(phases.values()) == pytest.approx(step, rel=0.02, abs=0.2)
    assert set(times.phases_ms()) == set(PHASES) and times.overhead() > -1


def test_a_window_of_long_steps_is_short() -> None:
    trainer = Trainer(spec(), CPU)
    times = step_times(trainer, batch_of(spec(), STEP), STEP, steps=9, longest_s=0)
    assert len(times.plain_ms) == len(times.phases) == FEWEST


def test_of_a_frozen_encoder_nothing_is_backward() -> None:
    trainer = Trainer(spec(), CPU)
    trainer.model.encoder.requires_grad_(False)
    recorder = PhaseRecorder(CPU)
    with recording(recorder):
        trainer.step(STEP, batch_of(spec(), STEP))
    times = recorder.times_ms()
    assert times["encoder backward"] == 0 < times["aggregator backward"]


def test_without_a_recorder_there_are_no_hooks() -> None:
    trainer = Trainer(spec(), CPU)
    assert trainer.model(batch_of(spec(), STEP).inputs).means._backward_hooks is None


PROGRAM = """
import json
from support.training import CPU, batch_of, spec
from bench.profiling.phases import PhaseRecorder
from bench.training.trainer import Trainer
from models.phases import recording

trainer = Trainer(spec(compile=True), CPU)
trainer.step(10, batch_of(spec(), 10))
recorder = PhaseRecorder(CPU)
with recording(recorder):
    trainer.step(11, batch_of(spec(), 11))
print(json.dumps(recorder.times_ms()))
"""


@pytest.mark.long
def test_compiled_parts_keep_their_borders() -> None:
    """In a process of its own: under the tests' shape hook there is nothing to compile."""
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    times = json.loads(done.stdout)
    assert all(times[name] > 0 for name in ("encoder", "aggregator", "head", *BACKWARD))
