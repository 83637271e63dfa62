"""How the stages of a run write to its folder; ranks other than the first write nothing. No torch."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from bench.common.files import atomic_write
from bench.common.json_files import append_lines


@runtime_checkable
class Writer(Protocol):
    """Everything that a stage writes goes through one of these."""

    folder: Path

    def commit(self, name: str, write: Callable[[Path], None]) -> None:
        """Atomic: `write` creates a file or a directory at the path it gets, which then replaces `name`."""
        ...

    def append(self, name: str, *records: Mapping[str, object]) -> None:
        """Add a JSON line for each record."""
        ...

    def remove(self, name: str) -> None:
        """Delete a file or a directory, if it exists."""
        ...


class PlainWriter:
    """Writes without a lease: for tools and tests that own their folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def check(self) -> None:
        """Called before each write becomes visible. Raises LeaseLost in `LeasedWriter`."""

    def commit(self, name: str, write: Callable[[Path], None]) -> None:
        atomic_write(self.folder / name, write, self.check)

    def append(self, name: str, *records: Mapping[str, object]) -> None:
        self.check()
        append_lines(self.folder / name, *records)

    def remove(self, name: str) -> None:
        self.check()
        target = self.folder / name
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)


class NullWriter:
    """Writes nothing: for ranks other than the first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def commit(self, name: str, write: Callable[[Path], None]) -> None:
        """Does nothing."""

    def append(self, name: str, *records: Mapping[str, object]) -> None:
        """Does nothing."""

    def remove(self, name: str) -> None:
        """Does nothing."""
