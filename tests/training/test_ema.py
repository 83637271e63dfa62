"""`train.ema`: what a run keeps and validates is an average; what it trains are the weights as without it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.balls import Balls
from support.training import CPU, SIZE, batch_of, run, spec, stop_after

from bench import config, protocols
from bench.common.errors import ConfigError
from bench.config.run_id import canonical_json, run_id
from bench.config.schema import EvaluationSpec, PartsSpec, PartTraining
from bench.data.sampler import Sampler
from bench.runs.folder import RunFolder
from bench.training import checkpoint
from bench.training.best_checkpoint import validation_psnr
from bench.training.train import Stopped
from bench.training.trainer import Trainer
from models import weights


def test_a_run_keeps_the_average_of_its_weights(tmp_path: Path) -> None:
    plain, decay = spec(), 0.6  # which the last steps reach
    trainer, average = Trainer(plain, CPU), dict[str, torch.Tensor]()
    for step in range(plain.train.steps):
        trainer.step(step, batch_of(plain, step))
        share = min(decay, (1 + step) / (10 + step)) if step else 0.0
        for key, value in trainer.model.state_dict().items():
            average[key] = share * average.get(key, torch.zeros(())) + (1 - share) * value
    folder, kept = run(tmp_path / "average", spec(ema=decay)), weights.load(tmp_path / "average").state_dict()
    assert kept.keys() == average.keys()
    for key, value in average.items():
        torch.testing.assert_close(kept[key], value, rtol=0, atol=1e-6, msg=key)
    last = trainer.model.state_dict()
    assert max(float((kept[key] - last[key]).abs().max()) for key in last) > 2e-5
    losses = [record["loss"] for record in run(tmp_path / "plain", plain).metrics()]
    assert [record["loss"] for record in folder.metrics()] == losses


def test_the_average_is_validated(tmp_path: Path) -> None:
    """And training goes on with the weights."""
    of = replace(spec(ema=0.9, keep="best", validations=4), evaluation=EvaluationSpec(scenes=2))
    folder = run(tmp_path / "validated", of)
    kept, scenes = (folder.training() or {})["kept"], Balls(SIZE).scenes("validation")[:2]
    sampler, protocol = Sampler(Balls(SIZE), of.views, 0), protocols.get("per_image_white")
    again = validation_psnr(weights.load(folder.path), sampler, scenes, protocol)
    assert again == pytest.approx(kept["validation_psnr"], abs=1e-9)
    plain = run(tmp_path / "plain", spec())
    assert [r["loss"] for r in folder.metrics()] == [r["loss"] for r in plain.metrics()]


def test_a_frozen_part_has_no_average(tmp_path: Path) -> None:
    of = spec(ema=0.9, parts=PartsSpec(encoder=PartTraining(freeze=True)))
    with pytest.raises(Stopped):
        run(tmp_path, of, stop=stop_after(2))
    (folder,) = RunFolder(tmp_path).checkpoints()
    averaged = {key.partition(".")[0] for key in load_file(folder / checkpoint.OPTIMIZER) if key.endswith("/average")}
    assert averaged == {"aggregator", "head"}
    run(tmp_path, of)
    start, kept = of.model.build(0).state_dict(), weights.load(tmp_path).state_dict()
    assert all(torch.equal(kept[key], value) for key, value in start.items() if key.startswith("encoder."))


def test_none_is_no_part_of_the_id() -> None:
    assert "ema" not in canonical_json(spec()) and run_id(spec(ema=0.9)) != run_id(spec())


@pytest.mark.parametrize("decay", ["0", "1", "-0.5", "1.5"])
def test_what_is_no_decay_is_refused(tmp_path: Path, decay: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(f"base: freesplatter\nset:\n  train.ema: {decay}\n")
    with pytest.raises(ConfigError, match=rf"spec.yaml:3: train\.ema: {decay} is no decay: between 0 and 1"):
        config.load(path)
