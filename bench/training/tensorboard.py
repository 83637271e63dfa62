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
        self._events: SummaryWriter | None = None

    def append(self, name: str, *records: Mapping[str, object]) -> None:
        """Records of metrics.jsonl become one scalar per number."""
        self.writer.append(name, *records)
        for record in records if name == METRICS else ():
            numbers = {key: value for key, value in record.items() if isinstance(value, int | float)}
            step = int(numbers.pop("step"))
            for key, value in numbers.items():
                self._events_from(step).add_scalar(key, value, step)

    def commit(self, name: str, write: Callable[[Path], None]) -> None:
        """preview.png becomes a picture of the step that it shows, whose record may be written later."""
        self.writer.commit(name, write)
        if name == preview.FILE:
            with Image.open(self.folder / name) as image:
                step, pixels = int(image.info[preview.STEP]), np.asarray(image.convert("RGB"))
            self._events_from(step).add_image("preview", pixels, step, dataformats="HWC")

    def remove(self, name: str) -> None:
        """As `writer`."""
        self.writer.remove(name)

    def close(self) -> None:
        """Flush the event files."""
        if self._events is not None:
            self._events.close()

    def _events_from(self, step: int) -> SummaryWriter:
        """Opened at the first step of a session: those that a resumed run repeats replace the earlier ones."""
        self._events = self._events or SummaryWriter(str(self.folder), purge_step=step)
        return self._events
