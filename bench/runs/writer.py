"""How the stages of a run write to its folder: plainly, or not at all (a rank that leaves it to the first). No torch."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from bench.common.files import atomic_write
from bench.common.json_files import append_line


@runtime_checkable
class Writer(Protocol):
    """Everything that a stage writes goes through one of these."""

    folder: Path

    def commit(self, name: str, write: Callable[[Path], None]) -> None:
        """`write` fills a file (or a directory, if it makes one) beside `name`, which then takes its place at once."""
        ...

    def append(self, name: str, record: Mapping[str, object]) -> None:
        """Add one JSON line."""
        ...

    def remove(self, name: str) -> None:
        """Take away a file or a directory, if it is there."""
        ...


class PlainWriter:
    """Writes without a lease: for tools and tests that own their folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def check(self) -> None:
        """Called before each write becomes visible; a lease refuses here."""

    def commit(self, name: str, write: Callable[[Path], None]) -> None:
        atomic_write(self.folder / name, write, self.check)

    def append(self, name: str, record: Mapping[str, object]) -> None:
        self.check()
        append_line(self.folder / name, record)

    def remove(self, name: str) -> None:
        self.check()
        target = self.folder / name
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)


class NullWriter:
    """Of a rank that computes and leaves writing to the first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def commit(self, name: str, write: Callable[[Path], None]) -> None:
        """Nothing."""

    def append(self, name: str, record: Mapping[str, object]) -> None:
        """Nothing."""

    def remove(self, name: str) -> None:
        """Nothing."""
