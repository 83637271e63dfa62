"""TensorBoard's own reader finds every step's loss and a preview; the option is no part of a run's id."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.balls import Balls
from support.commands import SPEC
from support.training import CPU, SIZE, spec
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bench.config import load
from bench.runs.folder import RunFolder
from bench.runs.writer import PlainWriter
from bench.training.tensorboard import TensorBoardWriter
from bench.training.train import train


def test_scalars_and_previews(tmp_path: Path) -> None:
    writer = TensorBoardWriter(PlainWriter(tmp_path))
    train(spec(steps=24), writer, device=CPU, source=Balls(SIZE))
    writer.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    records = RunFolder(tmp_path).metrics()
    logged = [(event.step, event.value) for event in events.Scalars("loss")]
    assert logged == [(record["step"], pytest.approx(record["loss"])) for record in records] and len(logged) == 24
    assert {"learning_rate", "step_time_ms", "gradient_norm/encoder"} <= set(events.Tags()["scalars"])
    assert events.Images("preview")[0].width > 0


def test_it_is_no_part_of_a_runs_id(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(SPEC)
    plain, logged = load(path), load(path, ["train.tensorboard=true"])
    assert [run.id for run in plain.runs] == [run.id for run in logged.runs]
    assert logged.runs[0].spec.train.tensorboard and not plain.runs[0].spec.train.tensorboard
