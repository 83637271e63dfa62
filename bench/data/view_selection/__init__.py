"""Which views are inputs and which targets. One file, one value of `views.choice`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from bench.common.errors import UserError
from models.parts import PartSpec

Stage = Literal["training", "evaluation"]
Selection = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class ViewSelection(PartSpec, ABC):
    """A rule. In evaluation it draws nothing: the same views each time."""

    @abstractmethod
    def select(
        self, centers: NDArray[np.float64], usable: NDArray[np.int64], *, inputs: int, targets: int, stage: Stage,
        random: np.random.Generator,
    ) -> Selection:  # fmt: skip
        """Inputs and targets, as view indices; `centers` are all cameras' centers (view, 3), `usable` the views that
        the data set lets one choose. Raises UserError."""


def clusters(centers: NDArray[np.float64], views: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
    """K-means of these views' camera centers, as LaRa; each cluster's views in ascending order, seeded.

    Raises UserError for a scene with fewer distinct cameras than clusters.
    """
    labels = _labels(centers[views].tobytes(), count)
    return [views[labels == i] for i in range(count)]


@lru_cache(maxsize=300_000)
def _labels(centers: bytes, count: int) -> NDArray[np.int32]:
    from sklearn.cluster import KMeans

    views = np.frombuffer(centers).reshape(-1, 3)
    if len(distinct := np.unique(views.round(6), axis=0)) < count:
        raise UserError(f"views: a scene has {len(distinct)} distinct cameras, fewer than the {count} views to choose")
    with _threads().limit(limits=1, user_api="openmp"):  # rings are full of ties: partial sums would decide them
        labels: NDArray[np.int32] = KMeans(count, n_init=10, random_state=0).fit_predict(views)
    return labels


@cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()
