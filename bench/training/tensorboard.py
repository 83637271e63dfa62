"""TensorBoard while a run trains (`train.tensorboard: true`): scalars of every step, and the previews.

A run's folder is its log directory: tensorboard --logdir results/runs. To send the same to another tracker, write such
a wrapper around a run's Writer, and use it in `bench.execution.worker`: all that a stage records passes through
`append` (metrics.jsonl, one record per step) and `commit` (preview.png).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from bench.runs.writer import Writer
from bench.training import preview

METRICS = "metrics.jsonl"


class TensorBoardWriter:
    """Writes all that it gets with `writer`, and metrics and previews to TensorBoard's event files, too."""

    def __init__(self, writer: Writer) -> None:
        self.writer, self.folder = writer, writer.folder
        self.events: SummaryWriter | None = None
        self.step = 0

    def append(self, name: str, *records: Mapping[str, object]) -> None:
        """Records of metrics.jsonl become one scalar per number."""
        self.writer.append(name, *records)
        for record in records if name == METRICS else ():
            numbers = {key: value for key, value in record.items() if isinstance(value, int | float)}
            self.step = int(numbers.pop("step"))
            if self.events is None:  # steps that a resumed run repeats replace the earlier ones
                self.events = SummaryWriter(str(self.folder), purge_step=self.step)
            for key, value in numbers.items():
                self.events.add_scalar(key, value, self.step)

    def commit(self, name: str, write: Callable[[Path], None]) -> None:
        """preview.png becomes a picture of the last recorded step."""
        self.writer.commit(name, write)
        if name == preview.FILE and self.events is not None:
            pixels = np.asarray(Image.open(self.folder / name).convert("RGB"))
            self.events.add_image("preview", pixels, self.step, dataformats="HWC")

    def remove(self, name: str) -> None:
        """As `writer`."""
        self.writer.remove(name)

    def close(self) -> None:
        """Flush the event files."""
        if self.events is not None:
            self.events.close()
