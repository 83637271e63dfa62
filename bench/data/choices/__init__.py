"""Which views are inputs and which targets. One file, one value of `views.choice`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench.data.scene import LARA_VIEWS
from models.parts import PartSpec

Stage = Literal["training", "evaluation"]
Chosen = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Choice(PartSpec, ABC):
    """A rule. In evaluation it draws nothing: the same views each time."""

    @abstractmethod
    def choose(
        self, centres: NDArray[np.float64], *, inputs: int, targets: int, stage: Stage, random: np.random.Generator
    ) -> Chosen:
        """Inputs and targets, as view indices; `centres` are all cameras' centres (VIEWS, 3)."""


def clusters(centres: NDArray[np.float64], count: int) -> list[NDArray[np.int64]]:
    """K-means of the 38 views' camera centres, as LaRa; each cluster's views in ascending order, seeded."""
    labels = _labels(centres.tobytes(), count)
    return [np.array(LARA_VIEWS)[labels == i] for i in range(count)]


@lru_cache(maxsize=100_000)
def _labels(centres: bytes, count: int) -> NDArray[np.int32]:
    from sklearn.cluster import KMeans

    views = np.frombuffer(centres).reshape(-1, 3)[list(LARA_VIEWS)]
    labels: NDArray[np.int32] = KMeans(count, n_init=10, random_state=0).fit_predict(views)
    return labels
