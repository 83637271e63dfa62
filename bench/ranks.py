"""Who computes which scenes of a step. One process is rank 0 of 1 and runs the same code."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Ranks:
    """Rank r of a world of w takes samples r, r + w, r + 2w … of every step."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this rank writes."""
        return self.rank == 0

    def samples(self, batch: int) -> range:
        """This rank's share of a step's samples."""
        return range(self.rank, batch, self.world)

    def reduce_gradients(self, model: nn.Module) -> None:
        """Sum gradients over ranks; each rank's loss is already divided by the global batch."""

    def reduce(self, values: Tensor) -> Tensor:
        """Sum over ranks."""
        return values
