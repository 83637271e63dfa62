"""Paired differences: against numbers worked out by hand, and against simulated truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.analysis.differences import Scores, paired_difference, student_interval

SETTING: Scores = {0: {"a": 3.0, "b": 5.0}, 1: {"a": 4.0, "b": 8.0}, 2: {"a": 5.0, "b": 8.0}}
REFERENCE: Scores = {0: {"a": 2.0, "b": 4.0}, 1: {"a": 2.0, "b": 6.0}, 2: {"a": 2.0, "b": 5.0}}


def test_the_interval_over_seeds_is_student_t_of_the_seeds_means() -> None:
    """Seeds' mean differences 1, 2, 3: mean 2, standard deviation 1, t(0.975, 2) = 4.302653."""
    difference = paired_difference([(SETTING, REFERENCE)])
    assert difference is not None
    half = 4.302652729911275 / math.sqrt(3)
    assert difference.mean == pytest.approx(2.0)
    assert (difference.low, difference.high) == pytest.approx((2 - half, 2 + half))
    assert (difference.seeds, difference.scenes, difference.over) == (3, 2, "3 seeds")
    assert difference.verdict == "undecided"


def test_an_interval_that_excludes_zero_is_decided() -> None:
    reference = {seed: {scene: value - 10 for scene, value in scenes.items()} for seed, scenes in REFERENCE.items()}
    for pair in ((SETTING, reference), (reference, SETTING)):
        difference = paired_difference([pair])
        assert difference is not None and difference.verdict == "decided"


def test_one_seed_is_never_decided() -> None:
    one = {0: {str(i): 10.0 + i for i in range(20)}}, {0: {str(i): float(i) + 0.01 * i for i in range(20)}}
    difference = paired_difference([one])
    assert difference is not None and 0 < difference.low < difference.mean < difference.high
    assert difference.verdict == "one seed only" and difference.over == "20 scenes, one seed"
    single = paired_difference([({0: {"a": 2.0}}, {0: {"a": 1.0}})])
    assert single is not None and math.isnan(single.low) and single.over == "one seed"


def test_only_common_seeds_and_scenes_are_paired() -> None:
    setting = SETTING | {7: {"a": 1000.0}}
    reference = {seed: {**scenes, "c": -1000.0} for seed, scenes in REFERENCE.items()}
    difference = paired_difference([(setting, reference)])
    assert difference is not None and difference.mean == pytest.approx(2.0) and difference.scenes == 2
    assert paired_difference([(SETTING, {})]) is None
    assert paired_difference([({0: {"a": 1.0}}, {0: {"b": 1.0}})]) is None
    other_seeds = {seed + 10: scenes for seed, scenes in REFERENCE.items()}
    ordered = paired_difference([(SETTING, other_seeds)])
    assert ordered is not None and ordered.seeds == 3


def test_a_main_effect_averages_its_pairs() -> None:
    doubled = {seed: {scene: 2 * value for scene, value in scenes.items()} for seed, scenes in REFERENCE.items()}
    difference = paired_difference([(SETTING, REFERENCE), (doubled, REFERENCE)])
    assert difference is not None
    assert difference.mean == pytest.approx(np.mean([(1 + 3) / 2, (2 + 4) / 2, (3 + 3.5) / 2]))


@pytest.mark.parametrize("seeds", [3, 5])
def test_coverage_over_seeds(seeds: int) -> None:
    """Of 4,000 simulated sweeps with a true difference of 0.3, 95 % of the intervals hold it."""
    random = np.random.default_rng(0)
    means = 0.3 + random.normal(0, 0.2, (4000, seeds))
    intervals = np.array([student_interval(values) for values in means])
    covered = np.mean((intervals[:, 0] <= 0.3) & (intervals[:, 1] >= 0.3))
    assert covered == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 4000))


def test_coverage_over_scenes() -> None:
    """The percentile bootstrap over 30 scenes falls a little short of 95 %, as it is known to."""
    random, covered, repetitions = np.random.default_rng(1), 0, 300
    for _ in range(repetitions):
        values = 0.3 + random.normal(0, 1, 30)
        difference = paired_difference([({0: {str(i): float(v) for i, v in enumerate(values)}},
                                         {0: {str(i): 0.0 for i in range(30)}})])  # fmt: skip
        assert difference is not None
        covered += difference.low <= 0.3 <= difference.high
    assert 0.90 <= covered / repetitions <= 0.98


def test_no_difference_is_decided_as_often_as_chance_decides() -> None:
    random = np.random.default_rng(2)
    decided = 0
    for _ in range(1000):
        setting, reference = ({s: {"": float(v)} for s, v in enumerate(random.normal(0, 1, 4))} for _ in range(2))
        difference = paired_difference([(setting, reference)])
        decided += difference is not None and difference.verdict == "decided"
    assert 0.02 <= decided / 1000 <= 0.08
