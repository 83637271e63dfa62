"""Who computes which scenes of a step. One process is rank 0 of 1 and runs the same code."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Ranks:
    """Rank r of a world of w takes samples r, r + w, r + 2w … of every step.

    Losses are divided by the step's scenes, not the rank's, so that ranks add up: several processes override the
    three reductions with sums over all of them.
    """

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
        """Sum each gradient over ranks, in place."""

    def reduce(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sum each value over ranks."""
        return values

    def any(self, flag: bool) -> bool:
        """Whether some rank says so: all stop at the same step."""
        return flag


ALONE = Ranks()
