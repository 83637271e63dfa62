"""The files that a mesh names (materials, textures, buffers), beside it in a folder or in a ZIP archive."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import unquote
from zipfile import BadZipFile, ZipFile

from PIL import Image

from bench.common.errors import UserError
from bench.data.meshes.textures import decode_texture

TEXTURE_FOLDERS = (  # where exporters and data sets put textures, seen from the mesh's folder
    ".", "textures", "../textures", "materials/textures", "../materials/textures", "materials", "../materials",
    "images", "../images", "..",
)  # fmt: skip
MAX_WARNINGS = 20  # of one mesh
MAX_FILE_BYTES = 2**32  # of one file: protects from archives that expand without end


class Assets(ABC):
    """Files beside a mesh. `missing` collects, for the report, what the mesh has and could not be read.

    A name is tried as it is, seen from the mesh's folder; then its last component in TEXTURE_FOLDERS, in any case of
    letters. Backslashes, quotes and percent-encoding are understood.
    """

    def __init__(self) -> None:
        self.missing: list[str] = []
        self.omitted = 0  # warnings beyond MAX_WARNINGS
        self._textures: dict[str, Image.Image | None] = {}

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Content of a path from the mesh's folder, or from the archive's root. Raises OSError, KeyError."""

    @abstractmethod
    def candidates(self, name: str) -> Iterator[str]:
        """Existing paths that `name` may mean, best first."""

    def warn(self, text: str) -> None:
        """Add to `missing`, once; beyond MAX_WARNINGS only counted."""
        if (text := readable(text)) in self.missing:
            return
        if len(self.missing) < MAX_WARNINGS:
            self.missing.append(text)
        else:
            self.omitted += 1

    def find(self, name: str) -> bytes | None:
        """Content of a file that the mesh names; None where there is none, or it cannot be opened."""
        clean = name.strip().strip('"').replace("\\", "/")
        for spelling in dict.fromkeys((clean, unquote(clean), unquote(name))):
            try:
                for path in self.candidates(spelling):
                    return self.read(path)
            except (OSError, ValueError, KeyError, RuntimeError, BadZipFile):  # a name too long, a NUL, a bad archive
                continue
        return None

    def texture(self, name: str, where: str) -> Image.Image | None:
        """A picture that the mesh names at `where`; with a warning and None where it is not found or is damaged."""
        if name not in self._textures:
            content, self._textures[name] = self.find(name), None
            if content is None:
                self.warn(f"{where}: {name} not found")
            else:
                try:
                    self._textures[name] = decode_texture(content)
                except UserError as error:
                    self.warn(f"{where}: {name} cannot be decoded ({error})")
        return self._textures[name]


class FolderAssets(Assets):
    """Beside a file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.folder = path.parent

    def read(self, path: str) -> bytes:
        file = self.folder / path
        if file.stat().st_size > MAX_FILE_BYTES:
            raise OSError(f"larger than {MAX_FILE_BYTES} bytes")
        return file.read_bytes()

    def candidates(self, name: str) -> Iterator[str]:
        if (self.folder / name).is_file():
            yield name
        wanted = PurePosixPath(name).name.lower()
        for folder in TEXTURE_FOLDERS:
            path = self.folder / folder
            names = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
            yield from (f"{folder}/{n}" for n in names if n.lower() == wanted and (path / n).is_file())


class ArchiveAssets(Assets):
    """Beside a member of a ZIP archive: in its folder first, then anywhere."""

    def __init__(self, path: Path, member: str) -> None:
        super().__init__()
        self.path, self.folder = path, PurePosixPath(member).parent
        with ZipFile(path) as archive:
            self.names = [name for name in archive.namelist() if not name.endswith("/")]

    def read(self, path: str) -> bytes:
        with ZipFile(self.path) as archive:
            if archive.getinfo(path).file_size > MAX_FILE_BYTES:
                raise OSError(f"larger than {MAX_FILE_BYTES} bytes")
            return archive.read(path)

    def candidates(self, name: str) -> Iterator[str]:
        relative_path = os.path.normpath(self.folder / name)
        yield from (member for member in self.names if member.lower() == relative_path.lower())
        same_name = self._by_name.get(PurePosixPath(name).name.lower(), [])
        yield from sorted(same_name, key=lambda member: (not PurePosixPath(member).is_relative_to(self.folder), member))

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """Lower-case last component → members."""
        members: dict[str, list[str]] = {}
        for name in self.names:
            if not name.startswith("__MACOSX"):
                members.setdefault(PurePosixPath(name).name.lower(), []).append(name)
        return members


def readable(name: str | Path) -> str:
    """A text that can be printed and written as UTF-8: bytes of a name that are not UTF-8 become \\xNN."""
    return str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
