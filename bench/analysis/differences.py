"""Paired differences between settings, with a 95 % interval that states what it is over.

Several training seeds: for each seed the mean over scenes of (setting − reference), and Student's t interval of these
means. It covers another training with another seed, on these scenes. One seed: a bootstrap over its scenes
(percentile), which covers other scenes with these very weights; since it does not cover another training, nothing is
decided by it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 2000

Scores = Mapping[int, Mapping[str, float]]  # training seed → scene → value; one entry "" for what belongs to no scene
Verdict = Literal["decided", "undecided", "one seed only"]


@dataclass(frozen=True)
class Difference:
    """A setting minus its reference, in the metric's unit; `low` and `high` are nan where nothing varies."""

    mean: float
    low: float
    high: float
    seeds: int
    scenes: int
    verdict: Verdict

    @property
    def over(self) -> str:
        """What the interval is over."""
        if self.seeds > 1:
            return f"{self.seeds} seeds"
        return f"{self.scenes} scenes, one seed" if self.scenes > 1 else "one seed"


def paired_difference(pairs: Sequence[tuple[Scores, Scores]]) -> Difference | None:
    """Mean difference of (setting, reference) pairs; of several, as of a grid's main effect, their average.

    Pairs the same scenes of the same seeds; settings without a common seed are paired in the order of their seeds. None
    where there is nothing in common.
    """
    differences = _by_seed(pairs)
    if not differences:
        return None
    scenes = max(len(values) for values in differences)
    means = np.array([values.mean() for values in differences])
    mean = float(means.mean())
    if len(means) > 1:
        low, high = student_interval(means)
        return Difference(mean, low, high, len(means), scenes, "decided" if low > 0 or high < 0 else "undecided")
    low, high = bootstrap_interval(differences[0])
    return Difference(mean, low, high, 1, scenes, "one seed only")


def student_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Of the mean of at least two values."""
    mean, error = float(values.mean()), float(stats.sem(values))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
    return mean - half, mean + half


def bootstrap_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Of the mean, by resampling the values; reproducible. (nan, nan) for a single value."""
    if len(values) < 2:
        return math.nan, math.nan
    result = stats.bootstrap((values,), np.mean, confidence_level=CONFIDENCE, n_resamples=RESAMPLES,
                             method="percentile", rng=np.random.default_rng(0))  # fmt: skip
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _by_seed(pairs: Sequence[tuple[Scores, Scores]]) -> list[NDArray[np.float64]]:
    """For each seed the differences of its scenes, averaged over the pairs."""
    aligned = [list(zip(*_align_seeds(setting, reference), strict=True)) for setting, reference in pairs]
    differences = []
    for seed_pairs in zip(*aligned, strict=False):  # as many seeds as every pair has
        scenes = [scene for scene in seed_pairs[0][0] if all(scene in side for pair in seed_pairs for side in pair)]
        if scenes:
            values = [[setting[scene] - reference[scene] for scene in scenes] for setting, reference in seed_pairs]
            differences.append(np.mean(np.array(values, dtype=np.float64), axis=0))
    return differences


def _align_seeds(setting: Scores, reference: Scores) -> tuple[list[Mapping[str, float]], list[Mapping[str, float]]]:
    common = sorted(set(setting) & set(reference))
    seeds = (common, common) if common else (sorted(setting), sorted(reference))
    count = min(map(len, seeds))
    return [setting[seed] for seed in seeds[0][:count]], [reference[seed] for seed in seeds[1][:count]]
