"""Mesh files: alone, in folders and in ZIP archives."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from zipfile import BadZipFile, ZipFile

from bench.common.errors import UserError
from bench.data.meshes.assets import ArchiveAssets, Assets, FolderAssets, readable

SUFFIXES = (".obj", ".glb", ".gltf", ".ply", ".stl", ".off")
ARCHIVE = ".zip"
FINGERPRINT_BYTES = 2**20  # of a file's start and end
HIDDEN = (".", "__MACOSX")  # starts of names of files and folders that are no user's: ._chair.obj of macOS, .git


@dataclass(frozen=True)
class MeshFile:
    """A mesh file; `member` names it inside `path` where that is an archive."""

    path: Path
    member: str = ""

    def __str__(self) -> str:
        return readable(f"{self.path}:{self.member}" if self.member else str(self.path))

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.member or self.path.name).suffix.lower()

    @property
    def name(self) -> str:
        """Name of its scene: its stem, after the archive's."""
        stem = PurePosixPath(self.member).stem
        return f"{self.path.stem}_{stem}" if stem not in ("", self.path.stem) else self.path.stem

    @property
    def long_name(self) -> str:
        """With its folders, where `name` is ambiguous."""
        return "_".join([*self.path.resolve().parts[-3:], *PurePosixPath(self.member).parts])

    @property
    def fingerprint(self) -> str:
        """Distinguishes files of one name without reading gigabytes. Raises UserError."""
        if self.member:
            with self._opened(), ZipFile(self.path) as archive:
                info = archive.getinfo(self.member)
                return f"crc32 {info.CRC:08x}, {info.file_size} bytes"
        with self._opened(), self.path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            start = file.read(FINGERPRINT_BYTES)
            file.seek(max(0, size - FINGERPRINT_BYTES))
            return f"sha256 of the ends {hashlib.sha256(start + file.read()).hexdigest()[:16]}, {size} bytes"

    def open(self) -> tuple[bytes, Assets]:
        """Its content, and the files beside it. Raises UserError."""
        if self.suffix == ARCHIVE:
            with self._opened(), ZipFile(self.path):
                raise UserError(f"{self}: an archive without a mesh, that is {', '.join(SUFFIXES)}")
        with self._opened():
            assets = ArchiveAssets(self.path, self.member) if self.member else FolderAssets(self.path)
            return assets.read(self.member or self.path.name), assets

    @contextmanager
    def _opened(self) -> Iterator[None]:
        try:
            yield
        except (BadZipFile, KeyError, OSError, RuntimeError, NotImplementedError) as error:  # RuntimeError: encrypted
            raise UserError(f"{self}: cannot be opened ({type(error).__name__}: {readable(str(error))})") from error


def find_meshes(paths: Sequence[Path]) -> Iterator[MeshFile]:
    """The meshes named, and all below folders and inside archives named, without hidden ones.

    Raises UserError for a path that does not exist or is no mesh.
    """
    for path in paths:
        if path.is_dir():
            for file in sorted(path.rglob("*")):
                if _suffix_matches(file) and not _is_hidden(file.relative_to(path)) and file.is_file():
                    yield from _members(file)
        elif path.is_file() and _suffix_matches(path):
            yield from _members(path)
        elif path.is_file():
            raise UserError(f"{readable(path)} is no mesh: their names end in {', '.join((*SUFFIXES, ARCHIVE))}")
        else:
            raise UserError(f"{readable(path)}: no such file or folder")


def _suffix_matches(path: Path) -> bool:
    return path.suffix.lower() in (*SUFFIXES, ARCHIVE)


def _is_hidden(path: PurePath) -> bool:
    return any(part.startswith(HIDDEN) and part not in (".", "..") for part in path.parts)


def _members(path: Path) -> Iterator[MeshFile]:
    """The meshes of an archive; any other file, and an archive that is unreadable or holds none, as itself."""
    members: list[str] = []
    if path.suffix.lower() == ARCHIVE:
        try:
            with ZipFile(path) as archive:
                members = sorted(filter(_is_mesh, archive.namelist()))
        except (BadZipFile, OSError):
            members = []
    yield from (MeshFile(path, member) for member in members)
    if not members:
        yield MeshFile(path)


def _is_mesh(member: str) -> bool:
    path = PurePosixPath(member)
    return path.suffix.lower() in SUFFIXES and not _is_hidden(path)
