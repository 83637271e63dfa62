"""Which views are inputs and which targets. One file, one value of `views.choice`."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from bench.common.errors import UserError
from bench.data.cache import ByteCache
from bench.data.frames import Frame
from models.parts import PartSpec, Problem

Stage = Literal["training", "evaluation"]
Selection = tuple[tuple[int, ...], tuple[int, ...]]  # inputs, targets: indices of views

CLUSTERINGS: ByteCache[NDArray[np.uint16]] = ByteCache(share=1 / 4)  # some 500 bytes and 10 ms each


@dataclass(frozen=True)
class ViewSelection(PartSpec, ABC):
    """A rule. In evaluation it draws nothing: the same views each time."""

    def problems(self, inputs: int) -> Iterator[Problem]:
        """What is wrong with the rule's own fields for this many inputs."""
        return iter(())

    @abstractmethod
    def select(
        self, centers: NDArray[np.float64], usable: NDArray[np.int64], *, inputs: int, targets: int, stage: Stage,
        random: np.random.Generator,
    ) -> Selection:  # fmt: skip
        """Inputs and targets, as view indices.

        Args:
            centers: camera centers (view, 3) of all views of the scene.
            usable: the views that the data set allows (view,), ascending.

        Raises UserError for a scene with too few views.
        """


@dataclass(frozen=True)
class ViewsSpec:
    """Which views of a scene are inputs and targets, and in which frame (see bench/data/frames.py)."""

    choice: ViewSelection  # lara, exclude_inputs, rig
    inputs: int = 4
    targets: int = 4
    training_targets: int | None = field(default=None, metadata={"legacy": None})  # of a training sample; None: targets
    frame: Frame = "lara"
    background: Literal["white", "random_gray"] = field(  # of training targets; random_gray is LaRa's 0, 0.5 or 1
        default="white", metadata={"former_values": {"random_grey": "random_gray"}}
    )
    overfit: int = 0  # > 0: train and evaluate on this many scenes with fixed views (the test of a new part)
    evaluation_inputs: tuple[int, ...] | int = field(  # numbers of inputs to evaluate with, beside `inputs`
        default=(), metadata={"identity": False}
    )

    sizes: ClassVar[Mapping[str, Mapping[str, object]]] = {"tiny": {"choice": "rig", "training_targets": 2}}

    @property
    def other_inputs(self) -> tuple[int, ...]:
        """The numbers of `evaluation_inputs` without `inputs`, ascending."""
        numbers = self.evaluation_inputs
        return tuple(sorted(({numbers} if isinstance(numbers, int) else {*numbers}) - {self.inputs}))


def clusters(centers: NDArray[np.float64], views: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
    """K-means of these views' camera centers, as LaRa; each cluster's views in ascending order, seeded.

    Raises UserError for a scene with fewer distinct cameras than clusters.
    """
    chosen = centers[views]
    key = hashlib.blake2b(chosen.tobytes(), digest_size=16).digest(), count
    labels = CLUSTERINGS.get(key, lambda: _cluster_labels(chosen, count))
    return [views[labels == i] for i in range(count)]


def _cluster_labels(centers: NDArray[np.float64], count: int) -> NDArray[np.uint16]:
    """(view,): the cluster of each of these camera centers (view, 3)."""
    from sklearn.cluster import KMeans

    if len(distinct := np.unique(centers.round(6), axis=0)) < count:
        raise UserError(f"views: a scene has {len(distinct)} distinct cameras, fewer than the {count} views to choose")
    with _thread_pools().limit(limits=1, user_api="openmp"):  # rings are full of ties: partial sums would decide them
        return KMeans(count, n_init=10, random_state=0).fit_predict(centers).astype(np.uint16)  # type: ignore[no-any-return]


@cache
def _thread_pools() -> ThreadpoolController:
    return ThreadpoolController()
