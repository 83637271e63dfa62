"""TensorBoard's own reader finds every step's loss and a preview; the option is no part of a run's id."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from support.balls import Balls
from support.commands import SPEC
from support.training import CPU, SIZE, spec
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bench.config import load
from bench.config.schema import RunSpec
from bench.runs.folder import RunFolder
from bench.runs.writer import PlainWriter
from bench.training import preview
from bench.training.tensorboard import TensorBoardWriter
from bench.training.train import train


def logged_events(folder: Path, of: RunSpec) -> EventAccumulator:
    """What TensorBoard reads of a training."""
    with closing(TensorBoardWriter(PlainWriter(folder))) as writer:
        train(of, writer, device=CPU, source=Balls(SIZE))
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_scalars_and_previews(tmp_path: Path) -> None:
    events = logged_events(tmp_path, spec(steps=24, checkpoint_every=24))
    records = RunFolder(tmp_path).metrics()
    logged = [(event.step, event.value) for event in events.Scalars("loss")]
    assert logged == [(record["step"], pytest.approx(record["loss"])) for record in records] and len(logged) == 24
    assert {"learning_rate", "step_time_ms", "gradient_norm/encoder"} <= set(events.Tags()["scalars"])
    (picture,) = events.Images("preview")
    assert picture.step == preview.FIRST_STEPS and picture.width > 0


def test_a_preview_may_come_before_the_record_of_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first step that takes long is shown at once; its record is read while the second one computes."""
    monkeypatch.setattr(preview, "FIRST_STEPS", 1)
    assert [picture.step for picture in logged_events(tmp_path, spec(steps=3)).Images("preview")] == [1]


def test_it_is_no_part_of_a_runs_id(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(SPEC)
    plain, logged = load(path), load(path, ["train.tensorboard=true"])
    assert [run.id for run in plain.runs] == [run.id for run in logged.runs]
    assert logged.runs[0].spec.train.tensorboard and not plain.runs[0].spec.train.tensorboard
