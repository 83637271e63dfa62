"""Switches that save memory give the same gradients: micro-batches, recomputation, targets and input views in turn."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from support.balls import Balls
from support.base_models import BASES
from support.ranks import gradients
from support.training import CPU
from torch import Tensor, nn

from bench import config
from bench.common.errors import ConfigError
from bench.config.schema import RecomputeSpec, TrainSpec
from bench.data.sampler import Sampler
from bench.runtime.distributed import SINGLE_PROCESS
from bench.training.recompute import save_activations
from bench.training.trainer import Trainer
from models.parts import spec_class

TOLERANCE = 1e-5  # ‖g − g′‖ / ‖g‖ of each parameter, in float32
BF16_TOLERANCE = 1e-2  # of all parameters together, with every part in bf16, where other groups round otherwise
MODELS: dict[str, list[str]] = {
    "ours2": [],
    "dust3r": [],  # cross-attention, heads of their own for the first view
    "vggt": [],
    "lrm": ["train.batch=2"],
    "freesplatter": ["model.head=conv_up"],
    "croco": [],  # the same decoder for both views: its blocks run twice
}
PARTS = ("encoder", "aggregator", "head")
BF16 = [f"model.precision.{part}=bf16" for part in PARTS]
SWITCHES = {
    "micro-batches": ["train.micro_batch=1"],
    "recomputed": [f"train.recompute.{part}=block" for part in PARTS],
    "but attention": [f"train.recompute.{part}=selective" for part in PARTS],
    "targets in turn": ["train.views_at_once=1"],
    "uneven groups": ["train.views_at_once=3", "train.head_views=3"],
    "input views in turn": ["train.head_views=1", "train.recompute.head=block"],
    "input views in turn, but attention": ["train.head_views=1", "train.recompute.head=selective"],
    "micro-batches, recomputed": ["train.micro_batch=2", *(f"train.recompute.{part}=block" for part in PARTS)],
    "one product": ["train.fused_qkv=true"],
    "lean": ["train.regime=lean"],
}


def assert_equal(actual: dict[str, Tensor], expected: dict[str, Tensor], name: str) -> None:
    assert actual.keys() == expected.keys(), name
    for parameter, gradient in expected.items():
        if norm := float(gradient.norm()):
            difference = float((actual[parameter] - gradient).norm()) / norm
            assert difference <= TOLERANCE, f"{name}: {parameter} differs by {difference:.1e}"


@pytest.mark.parametrize("base", MODELS)
def test_gradients_are_the_same(base: str) -> None:
    expected = gradients(base, MODELS[base], SINGLE_PROCESS)
    assert expected
    for name, changes in SWITCHES.items():
        assert_equal(gradients(base, [*MODELS[base], *changes], SINGLE_PROCESS), expected, name)


@pytest.mark.parametrize("base", MODELS)
def test_gradients_are_the_same_in_bf16(base: str) -> None:
    """Exactly, where only activations are computed again."""
    words = [*MODELS[base], *BF16]
    expected = gradients(base, words, SINGLE_PROCESS)
    for name, changes in SWITCHES.items():
        actual = gradients(base, [*words, *changes], SINGLE_PROCESS)
        if all(change.startswith("train.recompute") for change in changes):
            assert_equal(actual, expected, name)
        difference = [actual[parameter] - gradient for parameter, gradient in expected.items()]
        assert norm_of(difference) <= BF16_TOLERANCE * norm_of(expected.values()), name


def norm_of(tensors: Iterable[Tensor]) -> Tensor:
    return torch.nn.utils.get_total_norm(list(tensors))


def test_dropout_is_drawn_again_as_it_was() -> None:
    """Of NoPoSplat's head."""
    plain, recomputed = (
        gradients("noposplat", words, SINGLE_PROCESS) for words in ([], ["train.recompute.head=block"])
    )
    assert_equal(recomputed, plain, "recomputed")


@pytest.mark.parametrize("dropout", [nn.AlphaDropout, nn.Dropout1d])
def test_every_kind_of_dropout_is_drawn_again(dropout: type[nn.Module]) -> None:
    (run,) = config.load(BASES / "ours2.yaml", ["init.encoder=scratch"], "tiny").runs
    views = Sampler(Balls(32), run.spec.views, 0).training(1, range(1)).inputs
    results = []
    for how in ("none", "block"):
        model = run.spec.model.build(seed=0).train()
        linear = next(m for m in model.aggregator.blocks[0].modules() if isinstance(m, nn.Linear))
        linear.register_module("dropout", dropout(0.5))
        linear.register_forward_hook(lambda module, _inputs, output: module.dropout(output))
        save_activations(model, TrainSpec(recompute=RecomputeSpec(aggregator=how)))
        torch.manual_seed(0)
        model(views).means.sum().backward()
        results.append({name: p.grad for name, p in model.aggregator.named_parameters() if p.grad is not None})
    assert_equal(results[1], results[0], dropout.__name__)


def test_a_head_that_mixes_views_gets_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec_class("models.heads", "dpt"), "mixes_views", True)
    config.load(BASES / "ours2.yaml", [], "tiny")
    with pytest.raises(ConfigError, match=r"train.head_views.*dpt mixes views.*set this to null"):
        config.load(BASES / "ours2.yaml", ["train.head_views=1"], "tiny")


def test_recomputing_is_no_part_of_what_a_run_is() -> None:
    plain, changed = (config.load(BASES / "ours2.yaml", words, "tiny").runs[0] for words in ([], SWITCHES["lean"]))
    assert plain.id == changed.id and changed.spec.train.recompute.head == "block"


def test_a_recomputed_model_evaluates_and_keeps_its_weights_names() -> None:
    (run,) = config.load(BASES / "freesplatter.yaml", SWITCHES["recomputed"], "tiny").runs
    trainer, plain = Trainer(run.spec, CPU), run.spec.model.build(run.spec.seed).train()
    assert trainer.model.state_dict().keys() == plain.state_dict().keys()
    views = Sampler(Balls(32), run.spec.views, 0).training(1, range(1)).inputs
    with torch.no_grad():
        assert torch.equal(trainer.model(views).means, plain(views).means)


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train.recompute.encoder.*none.*block"):
        config.load(BASES / "ours1.yaml", ["train.recompute.encoder=all"], "tiny")
