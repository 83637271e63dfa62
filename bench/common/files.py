"""Atomic replacement of files and directories: a reader sees the old content or the new, never a part. No torch."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import mkdtemp

from bench.common.errors import UserError

PREFIX = ".tmp-"  # of the directories in which new content is written, beside its target
REPLACED = ".replaced"  # in one of them: the old directory, until the new one has its name
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


def atomic_write(target: Path, write: Callable[[Path], None], check: Callable[[], None] = lambda: None) -> None:
    """Write beside `target`, flush to disk, `check`, rename.

    `write` gets a path that does not exist and makes a file or a directory there. A directory replaces an older one: in
    one step where the file system can exchange two names (Linux: ext4, XFS, Btrfs, tmpfs), else in two (NFS). A process
    killed between the two leaves no directory under that name until `remove_leftovers` puts the old one back.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    workspace = Path(mkdtemp(prefix=PREFIX, dir=target.parent))
    try:
        new = workspace / target.name
        write(new)
        for path in [new, *new.rglob("*")] if new.is_dir() else [new]:
            _flush(path)
        check()
        if not (new.is_dir() and target.exists() and _exchange(new, target)):
            if new.is_dir() and target.exists():
                old = workspace / REPLACED / target.name
                old.parent.mkdir()
                target.rename(old)
            new.replace(target)
        _flush(target.parent)
    finally:
        _discard(workspace)


def atomic_write_text(target: Path, text: str, check: Callable[[], None] = lambda: None) -> None:
    """`atomic_write` of a UTF-8 text."""

    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    atomic_write(target, write, check)


def remove_files(folder: Path, names: Iterable[str]) -> None:
    """Those of these names that exist."""
    for name in names:
        (folder / name).unlink(missing_ok=True)


def is_writable(folder: Path) -> bool:
    """Whether files can be written to a folder, which may not exist yet."""
    try:
        check_writable(folder)
    except UserError:
        return False
    return True


def check_writable(folder: Path) -> None:
    """Raises UserError where files cannot be written or hard-linked (leases need links)."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        workspace = Path(mkdtemp(prefix=PREFIX, dir=folder))
    except OSError as error:
        raise UserError(f"{folder.absolute()} cannot be written to ({error.strerror}): pass --results DIR") from error
    try:
        (workspace / "file").touch()
        os.link(workspace / "file", workspace / "link")
    except OSError as error:
        raise UserError(
            f"{folder.absolute()}: the file system has no hard links ({error.strerror}), so runs cannot be locked: "
            "pass --results DIR on another file system (ext4, XFS, NFS, Lustre)"
        ) from error
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove workspaces of killed writers in `folder` and its directories; restore a directory that is missing.

    Only for the process that owns the folder: workspaces of writers that are alive are removed as well.
    """
    for workspace in [*folder.glob(f"{PREFIX}*"), *folder.glob(f"*/{PREFIX}*")]:
        if workspace.parent.name != "lease":  # other processes may write there
            _discard(workspace)


def _discard(workspace: Path) -> None:
    for old in (workspace / REPLACED).glob("*"):
        target = workspace.parent / old.name
        if not target.exists():  # the writer was killed between its two renames
            old.rename(target)
    shutil.rmtree(workspace, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step; False where the C library or the file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError):
        return False
    return bool(renameat2(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE) == 0)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
