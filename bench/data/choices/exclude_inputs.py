"""LaRa's clusters, but no target shows what an input shows: "different viewpoints" read to the letter (§2.6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.data.choices import Choice, Chosen, Stage, clusters


@dataclass(frozen=True)
class Spec(Choice):
    def choose(
        self, centres: NDArray[np.float64], *, inputs: int, targets: int, stage: Stage, random: np.random.Generator
    ) -> Chosen:
        training = stage == "training"
        chosen = tuple(int(random.choice(v) if training else v[0]) for v in clusters(centres, inputs))
        seen = centres[list(chosen)]
        novel = []
        for views in clusters(centres, targets):
            free = [v for v in views if np.linalg.norm(seen - centres[v], axis=1).min() > 1e-6]  # 24 repeats 0
            novel.append(int(random.choice(free) if training else free[-1]))
        return chosen, tuple(novel)
