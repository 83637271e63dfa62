"""LaRa's clusters, but no target shows what an input shows: "different viewpoints" read to the letter (§2.6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import UserError
from bench.data.view_selection import Selection, Stage, ViewSelection, clusters

SAME = 1e-6  # cameras closer than this are one: view 24 repeats view 0


@dataclass(frozen=True)
class Spec(ViewSelection):
    """For a cluster whose cameras are all inputs the free view that is nearest to it is taken."""

    def select(
        self, centers: NDArray[np.float64], usable: NDArray[np.int64], *, inputs: int, targets: int, stage: Stage,
        random: np.random.Generator,
    ) -> Selection:  # fmt: skip
        training = stage == "training"
        chosen = tuple(int(random.choice(v) if training else v[0]) for v in clusters(centers, usable, inputs))
        input_centers = [centers[view] for view in chosen]
        groups = clusters(centers, usable, targets)
        novel: list[int | None] = []
        for views in groups:
            free = _free(views, centers, input_centers)
            novel.append(int(random.choice(free) if training else free[-1]) if free else None)
        for i, views in enumerate(groups):
            if novel[i] is None:
                novel[i] = _nearest(
                    views, centers, usable, [*input_centers, *(centers[view] for view in novel if view is not None)]
                )
        return chosen, tuple(view for view in novel if view is not None)


def _free(views: NDArray[np.int64], centers: NDArray[np.float64], taken: list[NDArray[np.float64]]) -> list[int]:
    """The views whose camera is none of the taken ones."""
    return [int(v) for v in views if np.linalg.norm(np.stack(taken) - centers[v], axis=1).min() > SAME]


def _nearest(
    views: NDArray[np.int64], centers: NDArray[np.float64], usable: NDArray[np.int64], taken: list[NDArray[np.float64]]
) -> int:
    """The free view nearest to the middle of a cluster. Raises UserError if there is none."""
    free = _free(usable, centers, taken)
    if not free:
        raise UserError(
            f"views: a scene of {len(centers)} views has no camera left for a target that no input or other target "
            "shows; ask for fewer views.inputs or views.targets, or use views.choice=lara"
        )
    middle = centers[views].mean(0)
    return min(free, key=lambda view: float(np.linalg.norm(centers[view] - middle)))
