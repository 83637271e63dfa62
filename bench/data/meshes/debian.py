"""Files of a Debian package, read without root: by dpkg-deb where it is installed, else by the package unix_ar."""

from __future__ import annotations

import lzma
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from bench.common.errors import UserError
from bench.common.files import atomic_write


def unpack(package: Path, suffix: str, folder: Path) -> list[Path]:
    """Extract the files of `package` whose names end in `suffix` into `folder`, without their directories.

    Files that exist already are kept. Raises UserError for what is no Debian package, is truncated, or has no such
    file.
    """
    try:
        with _data_archive(package) as stream, tarfile.open(fileobj=stream, mode="r|*") as archive:
            targets = [target for member in archive if (target := _extract(archive, member, suffix, folder))]
    except (OSError, ValueError, tarfile.TarError, EOFError, lzma.LZMAError) as error:
        raise UserError(
            f"{package}: cannot be unpacked ({type(error).__name__}: {error}); download it again"
        ) from error
    if not targets:
        raise UserError(f"{package} holds no file that ends in {suffix}")
    return targets


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, suffix: str, folder: Path) -> Path | None:
    content = archive.extractfile(member) if member.isfile() and member.name.endswith(suffix) else None
    if content is None:
        return None
    target = folder / PurePosixPath(member.name).name

    def write(path: Path) -> None:
        with path.open("wb") as file:
            shutil.copyfileobj(content, file)

    if not target.is_file():
        atomic_write(target, write)
    return target


@contextmanager
def _data_archive(package: Path) -> Iterator[IO[bytes]]:
    """The package's data.tar as a stream, possibly compressed. Raises UserError, OSError, ValueError."""
    if shutil.which("dpkg-deb"):
        command = ["dpkg-deb", "--fsys-tarfile", str(package.resolve())]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout
            yield process.stdout
            while process.stdout.read(2**20):  # the padding after the archive's end
                pass
        if process.returncode:
            raise UserError(f"{package}: cannot be unpacked (dpkg-deb exited {process.returncode}); download it again")
        return
    try:
        import unix_ar
    except ImportError as error:
        raise UserError(
            f"{package}: neither dpkg-deb nor the Python package unix_ar is installed: pip install unix_ar, or unpack "
            "the package elsewhere and pass the folder of its .sh3f files"
        ) from error
    archive = unix_ar.open(str(package))  # ValueError: no ar archive
    names = [entry.name.decode().rstrip("/") for entry in archive.infolist()]
    data = next((name for name in names if name.startswith("data.tar")), None)
    if data is None:
        raise ValueError("no data.tar in it")
    yield archive.open(data)
