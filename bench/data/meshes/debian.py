"""A Debian package's files, without dpkg or root: an ar archive that holds data.tar."""

from __future__ import annotations

import lzma
import tarfile
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from bench.common.errors import UserError
from bench.common.files import atomic_write

MAGIC = b"!<arch>\n"
HEADER = 60  # bytes: name in 0–16, size in 48–58


def unpack(package: Path, suffix: str, folder: Path) -> list[Path]:
    """The files of a package that end in `suffix`, in `folder` by their names; what is there already stays.

    Raises UserError for what is no package, or is cut short.
    """
    try:
        with package.open("rb") as file:
            found = _unpack(file, package, suffix, folder)
    except (OSError, tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise UserError(
            f"{package}: cannot be unpacked ({type(error).__name__}: {error}); download it again"
        ) from error
    if not found:
        raise UserError(f"{package} holds no file that ends in {suffix}")
    return found


def _unpack(file: IO[bytes], package: Path, suffix: str, folder: Path) -> list[Path]:
    """Read front to back, as it is compressed as a whole."""
    _find_data(file, package)
    found = []
    with tarfile.open(fileobj=file, mode="r|*") as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isfile() and member.name.endswith(suffix) else None
            if content is None:
                continue
            target = folder / PurePosixPath(member.name).name
            if not target.is_file():
                folder.mkdir(parents=True, exist_ok=True)
                atomic_write(target, partial(_write, content.read()))
            found.append(target)
    return found


def _write(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def _find_data(file: IO[bytes], package: Path) -> None:
    """Bring the file to the start of data.tar."""
    if file.read(len(MAGIC)) != MAGIC:
        raise UserError(f"{package} is no Debian package")
    while len(header := file.read(HEADER)) == HEADER:
        if header.startswith(b"data.tar"):
            return
        size = int(header[48:58])
        file.seek(size + size % 2, 1)
    raise UserError(f"{package}: a Debian package without data.tar, or cut short")
