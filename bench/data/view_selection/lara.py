"""LaRa's rule: one random view of each K-means cluster as input and, independently, one as target (§3.1).

A target may equal an input. Evaluation takes the first of each cluster as inputs and the last as targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.data.view_selection import Selection, Stage, ViewSelection, clusters


@dataclass(frozen=True)
class Spec(ViewSelection):
    def select(
        self, centers: NDArray[np.float64], usable: NDArray[np.int64], *, inputs: int, targets: int, stage: Stage,
        random: np.random.Generator,
    ) -> Selection:  # fmt: skip
        if stage == "evaluation":
            first = tuple(int(views[0]) for views in clusters(centers, usable, inputs))
            return first, tuple(int(views[-1]) for views in clusters(centers, usable, targets))
        return (
            tuple(int(random.choice(views)) for views in clusters(centers, usable, inputs)),
            tuple(int(random.choice(views)) for views in clusters(centers, usable, targets)),
        )
