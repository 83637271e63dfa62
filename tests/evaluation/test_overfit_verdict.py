"""The verdict of `--overfit`: a criterion for each kind of output, and settings that every base takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.balls import Balls
from support.base_models import BASES
from support.training import CPU, SIZE, run, spec, stop_after

from bench import config
from bench.config.schema import RunSpec
from bench.data.view_selection import rig
from bench.evaluation import overfit
from bench.evaluation.overfit import Criterion, OverfitVerdict
from bench.losses import completion, confidence_points
from bench.training import memorized
from bench.training.loop import Stopped
from models.aggregators import cross_attention
from models.encoders import croco
from models.outputs import pixels, pointmap

NAMES = sorted(path.stem for path in BASES.glob("*.yaml"))


def test_a_verdict_needs_every_criterion() -> None:
    high = Criterion("target views", 30.0, 28.0, "dB")
    low = Criterion("other views", 20.0, 21.5, "dB", remark="3 dB above a blank image")
    assert OverfitVerdict((high,)).passed and not OverfitVerdict((high, low)).passed
    text = str(OverfitVerdict((high, low)))
    assert text == (
        "FAILED: target views 30.00 dB (at least 28), other views 20.00 dB (at least 21.5: 3 dB above a blank image)"
    )


@pytest.mark.parametrize(("value", "passed"), [(0.02, True), (0.05, True), (0.07, False)])
def test_errors_must_be_small(value: float, passed: bool) -> None:
    criterion = Criterion("point error", value, overfit.MAX_POINT_ERROR, lower=True)
    assert criterion.passed is passed and f"point error {value:.4f} (at most 0.05)" == str(criterion)


@pytest.mark.parametrize("name", NAMES)
def test_every_base_takes_the_settings(name: str) -> None:
    """L_3D comes first only where a term can train alone; two-view models, too, memorize four target views."""
    path = BASES / f"{name}.yaml"
    specs = [run.spec for run in config.load(path, scale="tiny").runs]
    (run,) = config.load(path, overfit.overrides(1, specs), "tiny").runs
    assert run.spec.views.overfit == 1 and run.spec.views.targets == 4 and "lpips" not in run.spec.losses
    assert run.spec.train.learning_rate == pytest.approx(4 / 3 * specs[0].train.learning_rate, rel=1e-3)


def two_views(changes: RunSpec) -> RunSpec:
    """With E and A that take masks and two views."""
    model = replace(
        changes.model, encoder=croco.Spec(patch=4, width=32, blocks=1, heads=2), inputs=2,
        aggregator=cross_attention.Spec(blocks=1, width=32, heads=2),
    )  # fmt: skip
    return replace(changes, model=model, views=replace(changes.views, inputs=2, overfit=1, choice=rig.Spec()))


@pytest.mark.parametrize(("output", "losses", "criterion"), [
    (pointmap.Spec(), {"confidence_points": confidence_points.Spec()}, "point error"),
    (pixels.Spec(), {"completion": completion.Spec()}, "completion error"),
])  # fmt: skip
def test_outputs_without_pictures_have_their_own(
    tmp_path: Path, output: pointmap.Spec | pixels.Spec, losses: dict[str, object], criterion: str
) -> None:
    base = two_views(spec(steps=2, warmup_steps=1, geometry_first=0.0, batch=1))
    of = replace(base, model=replace(base.model, output=output), losses=losses)  # type: ignore[arg-type]
    run(tmp_path, of)
    verdict = overfit.check_overfit(of, tmp_path, device=CPU, source=Balls(SIZE))
    assert [c.name for c in verdict.criteria] == [criterion] and not verdict.passed and verdict.value(criterion) > 0


def completing(**changes: Any) -> RunSpec:
    """A model of two views that completes one scene's patches."""
    base = two_views(spec(warmup_steps=1, geometry_first=0.0, batch=1, **changes))
    return replace(base, model=replace(base.model, output=pixels.Spec()), losses={"completion": completion.Spec()})


@pytest.mark.parametrize(("limit", "steps"), [(10.0, 10), (0.0, 25)])
def test_training_ends_once_the_check_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: float, steps: int
) -> None:
    """And the weights kept are those that passed; without passing it goes to the last step."""
    monkeypatch.setattr(overfit, "MAX_COMPLETION_ERROR", limit)
    monkeypatch.setattr(memorized, "EVERY", 10)
    of = completing(steps=25)
    folder = run(tmp_path, of)
    training = folder.training()
    assert training is not None and training["steps"] == steps and training["kept"] == {"step": steps}
    assert len(folder.metrics()) == steps and not folder.checkpoints()
    assert overfit.check_overfit(of, tmp_path, device=CPU, source=Balls(SIZE)).passed is (steps < 25)


def test_a_run_that_passed_and_was_stopped_takes_no_other_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memorized, "EVERY", 10)
    monkeypatch.setattr(overfit, "MAX_COMPLETION_ERROR", 0.0)
    with pytest.raises(Stopped):
        run(tmp_path, completing(steps=25), stop=stop_after(10))
    monkeypatch.setattr(overfit, "MAX_COMPLETION_ERROR", 10.0)
    training = run(tmp_path, completing(steps=25)).training()
    assert training is not None and training["steps"] == 10


def test_the_checks_change_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overfit, "MAX_COMPLETION_ERROR", 0.0)
    losses = []
    for every in (4, 100):
        monkeypatch.setattr(memorized, "EVERY", every)
        losses.append([record["loss"] for record in run(tmp_path / str(every), completing(steps=10)).metrics()])
    assert losses[0] == losses[1]


def test_only_the_last_weights_are_checked_early() -> None:
    overfitting = completing(steps=100)
    best = replace(overfitting, train=replace(overfitting.train, keep="best"))
    assert memorized.is_due(overfitting, memorized.EVERY) and not memorized.is_due(best, memorized.EVERY)
    assert not memorized.is_due(spec(steps=100), memorized.EVERY)
