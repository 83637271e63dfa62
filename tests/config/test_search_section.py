"""The `search` section: what it may say, what it refuses and where, and what a member stands for at another scale."""

from __future__ import annotations

from pathlib import Path

import pytest

import bench.run
from bench.common.errors import ConfigError, UserError
from bench.config import SCALES, load
from bench.config.search_section import load_search
from bench.config.search_space import Choices, Range
from bench.config.spec_files import BASES

COMMITTED = BASES.parent / "search.yaml"
HEAD = "base: freesplatter\nruns: [{name: FreeSplatter}, {name: Ours1, base: ours1}]\nsearch:\n"
SEARCH = HEAD + "  objectives: [psnr, parameters]\n  fields:\n"
GOOD = SEARCH + "    train.weight_decay: [0.0, 0.1]\n"

CASES = {  # what is wrong: (the spec, the problem's line, parts of the message)
    "no section": ("base: freesplatter", 1, ["no `search` section", "bench.run"]),
    "no base": ("runs: [{base: ours1}]\nsearch: {fields: {seed: [0, 1]}}", 1, ["names no `base`"]),
    "not a mapping": ("base: freesplatter\nsearch: 3", 2, ["search is a mapping"]),
    "unknown key": (GOOD + "  trails: 3", 7, ["no field search.trails", "did you mean 'trials'"]),
    "unknown field": (SEARCH + "    train.learning_rat: [1.0e-3]", 6, ["did you mean 'learning_rate'"]),
    "unknown part": (SEARCH + "    model.encoder: [conv, crocco]", 6, ["did you mean 'croco'"]),
    "field of no part": (SEARCH + "    model.encoder.taps: [1]", 6, ["no field model.encoder.taps", "conv has patch"]),
    "wrong type": (SEARCH + "    train.batch: [4, many]", 6, ["train.batch", "expected a whole number, got 'many'"]),
    "no list": (SEARCH + "    train.batch: 4", 6, ["a list of values, {log: [low, high]}"]),
    "unknown range": (SEARCH + "    train.learning_rate: {lgo: [1.0e-3, 1.0e-2]}", 6, ["did you mean 'log'"]),
    "range upside down": (SEARCH + "    train.learning_rate: {log: [1.0e-2, 1.0e-3]}", 6, ["the lower first"]),
    "range from 0": (SEARCH + "    train.weight_decay: {log: [0, 0.1]}", 6, ["both above 0"]),
    "range of fractions": (SEARCH + "    train.batch: {uniform: [1.5, 8]}", 6, ["takes whole numbers"]),
    "zip lengths": (HEAD + "  zip: {train.batch: [4, 8], seed: [0]}", 4, ["one length"]),
    "searched twice": (GOOD + "  zip: {train.weight_decay: [0.0, 0.2], seed: [0, 1]}", 7, ["searched twice"]),
    "set and searched": (GOOD + "set: {train.weight_decay: 0.2}", 6, ["searched here, but `set` sets it"]),
    "a scale sets it": (SEARCH + "    model.aggregator.blocks: [1, 2]", 6, ["scale tiny sets it", "search: {fields:"]),
    "unknown sampler": (GOOD + "  sampler: tpi", 7, ["no sampler 'tpi'", "did you mean 'tpe'"]),
    "grid of a range": (GOOD + "    seed: {uniform: [0, 9]}\n  sampler: grid", 7, ["needs a list of values for seed"]),
    "trials": (GOOD + "  trials: none", 7, ["search.trials: expected a whole number"]),
    "unknown objective": (HEAD + "  objectives: [psnr, parameter]", 4, ["did you mean 'parameters'"]),
    "one objective": (HEAD + "  objectives: [psnr]", 4, ["two or three"]),
    "undirected objective": (HEAD + "  objectives: [psnr, grid_ratio]", 4, ["no objective 'grid_ratio'"]),
    "nothing to search": (HEAD + "  objectives: [psnr, parameters]", 3, ["nothing is searched"]),
    "another scale": (
        GOOD + "scales: {small: {search: {fields: {train.weight_decay: [0.0]}}}}", 7, ["2 values at scale tiny and 1"],
    ),
    "error at another scale": (GOOD + "scales:\n  small: {search: {fields: {train.bach: [1]}}}", 8, ["'batch'"]),
}  # fmt: skip


def write(folder: Path, text: str) -> Path:
    path = folder / "spec.yaml"
    path.write_text(text + "\n")
    return path


@pytest.mark.parametrize("name", CASES)
def test_refused_with_file_line_and_what_to_do(name: str, tmp_path: Path) -> None:
    text, line, parts = CASES[name]
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        load_search(path)
    matching = [problem for problem in raised.value.problems if all(part in problem for part in parts)]
    assert matching and matching[0].startswith(f"{path}:{line}: "), raised.value.problems


def test_everything_wrong_is_reported_at_once(tmp_path: Path) -> None:
    text = (
        SEARCH + "    train.bach: [1]\n    train.steps: {lgo: [1, 2]}\n  sampler: x\n  trials: 0\nset: {train.stpes: 3}"
    )
    with pytest.raises(ConfigError) as raised:
        load_search(write(tmp_path, text))
    assert len(raised.value.problems) == 5


@pytest.mark.parametrize("scale", SCALES)
def test_the_committed_search(scale: str) -> None:
    search = load_search(COMMITTED, scale=scale)
    assert search.trials >= 12 and [run.label for run in search.sweep.runs] == ["FreeSplatter", "Ours1", "Ours2"]
    for index in range(5):
        values = {f.name: f.rounded((f.low + f.high) / 2) if isinstance(f, Range) else 0 for f in search.fields}
        values["model.aggregator.blocks + model.head"] = index
        run = search.resolve(values)
        assert run.spec.model.aggregator.blocks == max(run.spec.model.head.tap_levels(run.spec.model.aggregator.blocks))


def test_bench_run_says_which_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"spec.yaml:3: this spec is a search: python -m bench.search"):
        bench.run.main([str(write(tmp_path, GOOD)), "--results", str(tmp_path)])


def test_what_the_command_line_fixes_is_not_searched(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "    seed: [0, 1]")
    search = load_search(path, ["train.weight_decay=0.3", "train.steps=50"])
    assert [field.name for field in search.fields] == ["seed"]
    run = search.resolve({"seed": 1})
    assert (run.spec.train.weight_decay, run.spec.train.steps, run.spec.seed) == (0.3, 50, 1)


def test_a_field_of_a_part_that_is_not_proposed_makes_no_difference(tmp_path: Path) -> None:
    search = load_search(write(tmp_path, SEARCH + "    model.encoder: [conv, croco]\n    model.encoder.blocks: [1, 2]"))
    ids = [search.resolve({"model.encoder": e, "model.encoder.blocks": b}).id for e in (0, 1) for b in (0, 1)]
    assert ids[0] == ids[1] and len(set(ids)) == 3
    values = {"model.encoder": 0, "model.encoder.blocks": 1}
    assert "model.encoder.blocks" not in search.member(values)["scales"]["tiny"]


def test_values_that_do_not_go_together_say_where(tmp_path: Path) -> None:
    search = load_search(write(tmp_path, SEARCH + "    model.encoder.patch:\n      - 4\n      - 5"))
    with pytest.raises(ConfigError, match=r"spec.yaml:8: model.encoder.patch: 5 does not divide"):
        search.resolve({"model.encoder.patch": 1})


def test_a_member_is_carried_to_another_scale_by_its_place(tmp_path: Path) -> None:
    search = load_search(COMMITTED, ["evaluation.scenes=2"])
    values = {"model.encoder": 1, "model.encoder.patch": 0, "train.learning_rate": 0.00316,
              "model.aggregator.blocks + model.head": 4}  # fmt: skip
    scales = search.member(values)["scales"]
    assert scales["tiny"]["train.steps"] == 80 and scales["tiny"]["evaluation.scenes"] == 2
    assert "search" not in scales["tiny"] and "evaluation.scenes" not in scales["paper"]
    assert [scales[scale]["model.aggregator.blocks"] for scale in SCALES] == [4, 12, 24]
    assert [scales[scale]["model.encoder.patch"] for scale in SCALES] == [4, 8, 8]
    assert scales["paper"]["train.learning_rate"] == 6.32e-05  # the middle, in decades
    assert scales["paper"]["model.head"] == {"name": "dpt", "taps": [0, 12, 18, 24]}


def test_ranges(tmp_path: Path) -> None:
    text = SEARCH + "    train.batch: {log: [2, 32]}\n    train.learning_rate: {uniform: [1.0e-3, 3.0e-3]}"
    batch, rate = load_search(write(tmp_path, text)).fields
    assert isinstance(batch, Range) and batch.whole and batch.log and batch.settings(8)["train.batch"].value == 8
    assert isinstance(rate, Range) and not rate.whole and rate.rounded(0.00123456) == 0.00123
    assert rate.rounded(0.0029999) == 0.003 and batch.map_to_scale(8, Range("", 4, 64, True, True, "")) == 16


def test_choices_of_numbers_are_ordered(tmp_path: Path) -> None:
    from bench.search.study import is_ordinal

    text = SEARCH + "    train.batch: [2, 4, 8]\n    seed: [3, 1]\n    model.head: [linear, dpt]"
    fields = load_search(write(tmp_path, text)).fields
    assert all(isinstance(field, Choices) for field in fields) and [is_ordinal(f) for f in fields] == [
        True,
        False,
        False,
    ]


def test_front_specs_load_by_themselves(tmp_path: Path) -> None:
    """Front members find a base that lies beside the spec, too (bench/search/pareto_front.py copies it)."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "mine.yaml").write_text((BASES / "ours1.yaml").read_text())
    mine = GOOD.replace(
        "base: freesplatter\nruns: [{name: FreeSplatter}, ", "base: mine\nruns: [{base: freesplatter}, "
    )
    search = load_search(write(tmp_path, mine))
    assert search.local_base_file("mine") == tmp_path / "base" / "mine.yaml" and search.local_base_file("ours1") is None
    assert load(write(tmp_path, "base: mine")).runs
