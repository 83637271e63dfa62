"""G-Objaverse, the paper's data. Named by specs at paper scale; its reader is not part of this version."""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.data.scene import DataSource
from bench.errors import BadInput
from models.parts import PartSpec


@dataclass(frozen=True)
class Spec(PartSpec):
    """`root` holds the scenes; every `split_every`-th of the sorted list is for evaluation (the paper's 10 : 1)."""

    version: str = "1"
    root: str | None = field(default=None, metadata={"identity": False})
    split_every: int = 11

    def open(self, image_size: int, progress: bool = True) -> DataSource:
        """Raises BadInput."""
        raise BadInput(
            "data: gobjaverse cannot be read by this version, only priced (--dry-run); "
            "train on procedural scenes with `data=procedural`"
        )
