"""`train.parts`: frozen parts and learning rates by part, without a change of any run's id."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.training import CPU, batch_of, run, spec

from bench import config
from bench.common.errors import ConfigError
from bench.config.run_id import run_id
from bench.config.schema import PartsSpec, PartTraining, RunSpec
from bench.training import optimizer
from bench.training.trainer import Trainer
from models import weights

PARTS = ("encoder", "aggregator", "head")


def of(**parts: PartTraining) -> RunSpec:
    run_spec = spec(steps=4, warmup_steps=0, geometry_first=0.0)
    return replace(run_spec, train=replace(run_spec.train, parts=PartsSpec(**parts)))


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """The parts of which some weight differs."""
    return {key.partition(".")[0] for key, value in before.items() if not torch.equal(value, after[key])}


@pytest.mark.parametrize("frozen", PARTS)
def test_a_frozen_part_keeps_its_weights(tmp_path: Path, frozen: str) -> None:
    """No gradient and no weight decay reach it."""
    run_spec = of(**{frozen: PartTraining(freeze=True)})
    folder = run(tmp_path, run_spec)
    before, after = run_spec.model.build(0).state_dict(), weights.load(tmp_path).state_dict()
    assert moved(before, after) == set(PARTS) - {frozen}
    assert f"gradient_norm/{frozen}" not in folder.metrics()[-1]
    assert (folder.training() or {})["warnings"] == []


def test_a_rate_is_relative_to_the_others() -> None:
    slow = Trainer(of(encoder=PartTraining(rate=0.1)), CPU)
    equal = Trainer(of(), CPU)
    names = {id(parameter): name for name, parameter in slow.model.named_parameters()}
    optimizer.set_learning_rate(slow.optimizer, 2, slow.spec.train)
    base = optimizer.learning_rate(2, slow.spec.train)
    for group in slow.optimizer.param_groups:
        parts = {names[id(parameter)].partition(".")[0] for parameter in group["params"]}
        assert group["lr"] == pytest.approx(0.1 * base if "encoder" in parts else base)
        assert parts == {"encoder"} or "encoder" not in parts
    assert [group["lr"] for group in equal.optimizer.param_groups] == [equal.spec.train.learning_rate] * 2
    start = {key: value.clone() for key, value in slow.model.state_dict().items()}
    for trainer in (slow, equal):
        trainer.step(0, batch_of(trainer.spec, 0))
    key = "encoder.patchify.weight"
    ratio = (slow.model.state_dict()[key] - start[key]).norm() / (equal.model.state_dict()[key] - start[key]).norm()
    assert float(ratio) == pytest.approx(0.1, rel=0.02)


def test_defaults_are_no_part_of_the_id() -> None:
    assert run_id(of()) == run_id(replace(spec(), train=of().train)) and "parts" not in run_id_text(of())
    assert len({run_id(of()), run_id(of(head=PartTraining(freeze=True))), run_id(of(head=PartTraining(rate=0.5)))}) == 3


def run_id_text(run_spec: RunSpec) -> str:
    from bench.config.run_id import canonical_json

    return canonical_json(run_spec)


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("train.parts.encoder.rate=0", "train.parts.encoder.rate: must be greater than 0"),
        (
            "train.parts={encoder: {freeze: true}, aggregator: {freeze: true}, head: {freeze: true}}",
            "all parts are frozen",
        ),
        ("train.parts.decoder.freeze=true", "train.parts has encoder, aggregator, head"),
    ],
)
def test_mistakes_are_refused_at_load(setting: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        config.load(Path("ablations/base/freesplatter.yaml"), [setting])


def test_a_spec_freezes_a_part(tmp_path: Path) -> None:
    overrides: list[Any] = ["train.parts.encoder.freeze=true", "train.parts.head.rate=0.5"]
    (planned,) = config.load(Path("ablations/base/ours1.yaml"), [*overrides, "init.encoder=scratch"]).runs
    assert planned.spec.train.parts.encoder.freeze and planned.spec.train.parts.head.rate == 0.5
    assert config.from_dict(config.to_dict(planned.spec)) == planned.spec
