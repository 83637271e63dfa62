"""Inputs evenly spaced on ring 1, turned by a common random offset in training: what short trainings need."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import UserError
from bench.data.scene import RING_1, VIEWS, is_gobjaverse
from bench.data.view_selection import Selection, Stage, ViewSelection


@dataclass(frozen=True)
class Spec(ViewSelection):
    def select(
        self, centers: NDArray[np.float64], usable: NDArray[np.int64], *, inputs: int, targets: int, stage: Stage,
        random: np.random.Generator,
    ) -> Selection:  # fmt: skip
        if not is_gobjaverse(centers):
            raise UserError(
                f"views.choice: rig needs G-Objaverse's {VIEWS} cameras on two rings, a scene has {len(centers)} "
                "others; use lara or exclude_inputs"
            )
        offset = int(random.integers(len(RING_1))) if stage == "training" else 0
        ring = [RING_1[(offset + i * len(RING_1) // inputs) % len(RING_1)] for i in range(inputs)]
        others = np.array([view for view in usable if view not in ring and view not in (24, 39)])
        if stage == "training":
            chosen = random.choice(others, targets, replace=False)
        else:
            chosen = others[((np.arange(targets) + 0.5) * len(others) / targets).astype(int)]
        return tuple(ring), tuple(int(view) for view in chosen)
