"""Inputs at equal angles on ring 1, turned by a common random offset in training: what short trainings need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import UserError
from bench.data.scene import RING_1, VIEWS, is_gobjaverse
from bench.data.view_selection import Selection, Stage, ViewSelection
from models.parts import Problem

STEP = 360 // len(RING_1)  # degrees


@dataclass(frozen=True)
class Spec(ViewSelection):
    """`spacing`: degrees between neighboring inputs, a multiple of 15; None spreads them over the whole ring."""

    spacing: int | None = field(default=None, metadata={"legacy": None})

    def problems(self, inputs: int) -> Iterator[Problem]:
        if self.spacing is None:
            return
        if self.spacing < STEP or self.spacing % STEP:
            yield Problem("spacing", f"{self.spacing} is no positive multiple of ring 1's {STEP} degrees")
        elif inputs * self.spacing > 360:
            yield Problem("spacing", f"{inputs} inputs {self.spacing} degrees apart go around the ring more than once")

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
        steps = [i * len(RING_1) // inputs if self.spacing is None else i * self.spacing // STEP for i in range(inputs)]
        ring = [RING_1[(offset + step) % len(RING_1)] for step in steps]
        others = np.array([view for view in usable if view not in ring and view not in (24, 39)])
        if stage == "training":
            chosen = random.choice(others, targets, replace=False)
        else:
            chosen = others[((np.arange(targets) + 0.5) * len(others) / targets).astype(int)]
        return tuple(ring), tuple(int(view) for view in chosen)
