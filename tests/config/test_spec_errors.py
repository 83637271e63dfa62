"""Every way to get a spec wrong: the message names the file, the line, and what to do."""

from pathlib import Path

import pytest

from bench.common.errors import ConfigError
from bench.config import load

BASE = """# a model
model: {encoder: conv, aggregator: self_attention, head: dpt, output: gaussians}
data: procedural
views.choice: lara
losses: {mse: 1.0, lpips: 0.05, points: 10.0}
scales:
  tiny: {train.batch: 8}
"""
WEIGHTS = "init.encoder: {weights: w.pth}"

CASES = {  # what is wrong: (the spec, the problem's line, parts of the message)
    "duplicate key": ("base: mine\nset:\n  train.steps: 100\n  train.steps: 120", 4, ["twice", "spec.yaml:3"]),
    "dotted duplicate": ("base: mine\nset:\n  train.steps: 100\n  train: {steps: 120}", 4, ["train.steps is given"]),
    "unknown top key": ("base: mine\ngrd: {seed: [1]}", 2, ["grd", "did you mean 'grid'"]),
    "settings outside set": ("base: mine\ntrain.steps: 10", 2, ["train.steps", "`set:`"]),
    "seed with a list": ("base: mine\nseed: [0, 1]", 2, ["`seeds: […]` sweeps it"]),
    "unknown field": ("base: mine\nset:\n  train.stpes: 10", 3, ["train.stpes", "did you mean 'steps'"]),
    "unknown section": ("base: mine\nset:\n  trian.steps: 10", 3, ["trian", "did you mean 'train'"]),
    "unknown field of a part": ("base: mine\nset:\n  model.encoder.pach: 4", 3, ["pach", "conv", "patch"]),
    "field of another part": ("base: mine\nset:\n  model.encoder.blocks: 4", 3, ["blocks", "conv has patch, width"]),
    "unknown part": ("base: mine\nset:\n  model.encoder: crocco", 3, ["did you mean 'croco'", "conv, croco"]),
    "unknown data": ("base: mine\nset:\n  data: procedual", 3, ["did you mean 'procedural'"]),
    "unknown loss": ("base: mine\nset:\n  losses.lpip: 1", 3, ["did you mean 'lpips'"]),
    "unknown base": ("base: mien", 1, ["no base 'mien'", "did you mean 'mine'"]),
    "no base": ("set: {seed: 1}", 1, ["names no base"]),
    "unknown scale": ("base: mine\nscales:\n  tinny: {seed: 1}", 3, ["did you mean 'tiny'"]),
    "error at another scale": ("base: mine\nscales:\n  small: {train.bach: 1}", 3, ["did you mean 'batch'"]),
    "section set whole": ("base: mine\nset:\n  train: 3", 3, ["train is a section"]),
    "whole number": ("base: mine\nset:\n  train.steps: ten", 3, ["expected a whole number, got 'ten'"]),
    "boolean for a number": ("base: mine\nset:\n  train.batch: true", 3, ["expected a whole number, got true"]),
    "number": ("base: mine\nset:\n  train.learning_rate: fast", 3, ["expected a number"]),
    "YAML 1.1 boolean": ("base: mine\nset:\n  train.compile: yes", 3, ["expected true or false, got 'yes'"]),
    "allowed values": ("base: mine\nset:\n  train.matmul_precision: hig", 3, ["highest, high, medium", "'high'?"]),
    "list length": ("base: mine\nset:\n  train.betas: [0.9]", 3, ["a list of 2"]),
    "not optional": ("base: mine\nset:\n  train.steps: null", 3, ["got null"]),
    "init": ("base: mine\nset:\n  init.encoder: pretrained", 3, ["scratch, {weights: FILE"]),
    "init field": ("base: mine\nset:\n  init.encoder: {weight: x}", 3, ["did you mean 'weights'"]),
    "init part": ("base: mine\nset:\n  init.encodr: scratch", 3, ["did you mean 'encoder'"]),
    "merge key": ("base: mine\nset:\n  <<: {seed: 1}", 3, ["`<<`"]),
    "broken YAML": ("base: mine\nset: {seed: 1\n", 3, ["not valid YAML"]),
    "not a mapping": ("- base: mine", 1, ["a mapping"]),
    "grid without a list": ("base: mine\ngrid:\n  seed: 1", 3, ["grid needs a list of values for seed"]),
    "grid value": ("base: mine\ngrid:\n  seed: [0,\n    one]", 4, ["expected a whole number, got 'one'"]),
    "zip lengths": ("base: mine\nzip:\n  {seed: [0, 1], data.seed: [1]}", 2, ["one length", "seed with 2"]),
    "swept twice": ("base: mine\ngrid: {seed: [0, 1]}\nseeds: [2]", 3, ["seed is swept twice"]),
    "seeds": ("base: mine\nseeds: 3", 2, ["a list of whole numbers"]),
    "runs": ("base: mine\nruns: {a: b}", 2, ["runs is a list"]),
    "same run twice": ("base: mine\ngrid:\n  train.micro_batch: [2, 4]", 3, ["micro_batch makes no", "study: cost"]),
    "regime": ("base: mine\nset:\n  train.regime: leen", 3, ["one of paper, lean", "did you mean 'lean'"]),
    "no view at once": ("base: mine\nset:\n  train.views_at_once: 0", 3, ["at least 1"]),
    "where on no field": ("base: mine\ngrid: {seed: [0]}\nwhere: {model.encoder.pach: 4}", 3, ["pach"]),
    "where on no name": ("base: mine\ngrid: {seed: [0]}\nwhere: {model.encoder: cnv}", 3, ["did you mean 'conv'"]),
    "where keeps nothing": ("base: mine\ngrid: {seed: [0]}\nwhere: {seed: 1}", 3, ["keeps no run"]),
    "where as an expression": ("base: mine\nwhere: seed == 0", 2, ["a mapping of fields to values"]),
    "a scale touches what is swept": ("base: mine\ngrid:\n  train.batch: [4, 16]", 3, ["mine.yaml:7", "{tiny: {grid:"]),
    "include nothing": ("base: mine\ninclude: [other]", 2, ["no spec other"]),
    "include itself": ("base: mine\ninclude: spec", 2, ["includes itself"]),
    "no such parent": ("base: mine\nset:\n  init.head: {run: frist}", 3, ["no run 'frist'"]),
    "its own parent": ("runs:\n  - {name: a, base: mine, init.head: {run: a}}", 2, ["starts from"]),
    "patch and image": ("base: mine\nset:\n  model.encoder.patch: 5", 3, ["model.encoder.patch", "32"]),
    "width and heads": ("base: mine\nset:\n  model.aggregator.heads: 5", 3, ["192", "5"]),
    "taps": ("base: mine\nset:\n  model.head.taps: [0, 1, 2, 9]", 3, ["model.head.taps", "9"]),
    "taps by size": ("base: mine\nset:\n  model.aggregator.blocks: 1\n  model.head: dpt", 3, ["tap 2", "Spec.sizes"]),
    "output": ("base: mine\nset:\n  model.output.sh_degree: 7", 3, ["sh_degree"]),
    "warm-up": ("base: mine\nset:\n  train.steps: 10", 3, ["the 10 steps"]),
    "micro batch": ("base: mine\nset:\n  train.micro_batch: 3", 3, ["does not divide the batch of 8"]),
    "geometry first": ("base: mine\nset:\n  train.geometry_first: 1.5", 3, ["a share"]),
    "geometry without points": ("base: mine\nset: {losses.points: null}", 1, ["losses.points"]),
    "no loss": ("base: mine\nset: {train.geometry_first: 0, losses: {mse: 0, lpips: 0, points: 0}}", 2, ["no "]),
    "negative weight": ("base: mine\nset:\n  losses.mse: -1", 3, ["losses.mse.weight", "not be negative"]),
    "too small": ("base: mine\nset:\n  train.batch: 0", 3, ["at least 1"]),
    "learning rate": ("base: mine\nset:\n  train.learning_rate: 0", 3, ["greater than 0"]),
    "views": ("base: mine\nset:\n  views.targets: 35", 3, ["39 views, of 36"]),
    "protocol": ("base: mine\nset:\n  evaluation.protocols: [per_image_wite]", 3, ["did you mean 'per_image_white'"]),
    "weights fix the patch": (f"base: mine\nset:\n  model.encoder: croco\n  {WEIGHTS}", 3, ["8", "fix it at 16"]),
    "no known weights": (f"base: mine\nset:\n  {WEIGHTS}", 3, ["no checkpoint of encoder conv"]),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "mine.yaml").write_text(BASE)
    return tmp_path


def problems(text: str, *overrides: str, scale: str = "tiny") -> tuple[str, ...]:
    Path("spec.yaml").write_text(text)
    with pytest.raises(ConfigError) as raised:
        load(Path("spec.yaml"), overrides, scale)
    return raised.value.problems


@pytest.mark.parametrize("case", CASES)
def test_names_the_line_and_the_fix(folder: Path, case: str) -> None:
    text, line, parts = CASES[case]
    matching = [problem for problem in problems(text) if all(part in problem for part in parts)]
    assert matching, problems(text)
    assert matching[0].startswith(f"spec.yaml:{line}: ")


def test_alone(folder: Path) -> None:
    """One mistake is one problem: no error that only follows from it."""
    alone = [case for case in CASES if not case.startswith(("weights fix", "no known"))]
    assert {case: messages for case in alone if len(messages := problems(CASES[case][0])) != 1} == {}


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("train.stpes=3", ["did you mean 'steps'"]),
        ("train.steps=x", ["expected a whole number, got 'x'"]),
        ("model.encoder.blocks=3", ["conv has patch, width"]),
        ("train.steps", ["key=value"]),
        ("train.steps=[", ["not valid YAML"]),
        ("train.micro_batch=3", ["does not divide"]),
        ("model.encoder=crocco", ["did you mean 'croco'"]),
    ],
)
def test_command_line(folder: Path, override: str, parts: list[str]) -> None:
    (problem,) = problems("base: mine", override)
    assert problem.startswith(f"command line: {override}: ") and all(part in problem for part in parts)


def test_in_a_base(folder: Path) -> None:
    Path("base/mine.yaml").write_text(BASE + "train.stpes: 3\nmodel.encoder.patch: x\nbase: other\n")
    messages = problems("base: mine")
    assert [problem.split(": ")[0] for problem in messages] == [
        "base/mine.yaml:8",
        "base/mine.yaml:9",
        "base/mine.yaml:10",
    ]


def test_in_a_base_that_lacks_a_part(folder: Path) -> None:
    Path("base/mine.yaml").write_text("data: procedural\n")
    (problem,) = problems("base: mine")
    assert problem.startswith("spec.yaml:1: model.encoder is not set: it needs one of ") and "conv, croco" in problem


def test_in_an_included_spec(folder: Path) -> None:
    Path("other.yaml").write_text("base: mine\nset:\n  train.stpes: 3\n")
    (problem,) = problems("include: other")
    assert problem.startswith("other.yaml:3: ")


def test_unreadable(folder: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load("none.yaml")
    with pytest.raises(ConfigError, match="did you mean 'paper'"):
        load("none.yaml", scale="papr")


def test_all_at_once_and_in_order(folder: Path) -> None:
    text = "base: mine\nbse: 1\nset:\n  train.steps: ten\n  model.encoder: crocco\n  evaluation.protocols: [x]\n"
    messages = problems(text + "grid:\n  sed: [1]\n")
    assert [problem.split(": ")[0] for problem in messages] == [f"spec.yaml:{line}" for line in (2, 4, 5, 6, 8)]


def test_a_child_with_another_encoder_than_its_parent(folder: Path) -> None:
    text = "runs:\n  - {name: a, base: mine}\n  - {name: b, base: mine, model.encoder: croco, init.encoder: {run: a}}\n"
    (problem,) = problems(text)
    assert problem.startswith("spec.yaml:3: a has another encoder")
