"""Mesh files, alone, in folders and in ZIP archives, with the files that they name: materials and textures."""

from __future__ import annotations

import hashlib
import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote
from zipfile import BadZipFile, ZipFile

from PIL import Image
from trimesh.resolvers import Resolver

from bench.common.errors import UserError

SUFFIXES = (".obj", ".glb", ".gltf", ".ply", ".stl", ".off")
ARCHIVE = ".zip"
TEXTURE_FOLDERS = (".", "textures", "../textures", "..")  # where exporters put textures, from the mesh's folder
OPTIONS = re.compile(r"^(?:-[a-z]+(?:\s+(?:on|off|[-+.\d][-+.\deE]*))*\s+)+", re.IGNORECASE)  # of a texture, in an MTL
FINGERPRINT_BYTES = 2**20  # of a file's start and end
UNREAD = ("KHR_texture_transform", "KHR_texture_basisu")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tga", ".gif", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class MeshFile:
    """A mesh file; `member` names it inside `path` where that is an archive."""

    path: Path
    member: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.member}" if self.member else str(self.path)

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.member or self.path.name).suffix.lower()

    @property
    def name(self) -> str:
        """What a scene of it is called: its own, the archive's before it."""
        own = PurePosixPath(self.member).stem
        return f"{self.path.stem}_{own}" if own not in ("", self.path.stem) else self.path.stem

    @property
    def long_name(self) -> str:
        """With its folders, where `name` is not enough."""
        return "_".join([*self.path.resolve().parts[-3:], *PurePosixPath(self.member).parts])

    @property
    def fingerprint(self) -> str:
        """Tells files of one name apart without reading gigabytes. Raises UserError."""
        if self.member:
            with self._opened(), ZipFile(self.path) as archive:
                found = archive.getinfo(self.member)
                return f"crc32 {found.CRC:08x}, {found.file_size} bytes"
        with self._opened(), self.path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            start = file.read(FINGERPRINT_BYTES)
            file.seek(max(0, size - FINGERPRINT_BYTES))
            return f"sha256 of the ends {hashlib.sha256(start + file.read()).hexdigest()[:16]}, {size} bytes"

    def open(self) -> tuple[BytesIO, AssetResolver]:
        """Its content, and what finds the files that it names. Raises UserError."""
        if self.suffix == ARCHIVE:
            with self._opened(), ZipFile(self.path):
                raise UserError(f"{self}: an archive without a mesh, that is {', '.join(SUFFIXES)}")
        with self._opened():
            beside = ArchiveResolver(self.path, self.member) if self.member else FolderResolver(self.path)
            content = beside.content(self.member or self.path.name)
        beside.missing += [f"{extension} is not applied" for extension in _unread(content, self.suffix)]
        return BytesIO(content), beside

    @contextmanager
    def _opened(self) -> Iterator[None]:
        try:
            yield
        except (BadZipFile, KeyError, OSError, RuntimeError) as error:  # RuntimeError: encrypted
            raise UserError(f"{self}: cannot be opened ({type(error).__name__}: {error})") from error


def find_meshes(paths: Sequence[Path]) -> Iterator[MeshFile]:
    """Those named, and all below folders and inside archives named. Raises UserError for what is not there."""
    for path in paths:
        if path.is_dir():
            below = sorted(p for p in path.rglob("*") if p.suffix.lower() in (*SUFFIXES, ARCHIVE) and p.is_file())
            for each in below:
                yield from _inside(each)
        elif path.is_file() and path.suffix.lower() in (*SUFFIXES, ARCHIVE):
            yield from _inside(path)
        elif path.is_file():
            raise UserError(f"{path} is no mesh: their names end in {', '.join((*SUFFIXES, ARCHIVE))}")
        else:
            raise UserError(f"{path}: no such file or folder")


def _inside(path: Path) -> Iterator[MeshFile]:
    """The meshes of an archive; a file that is none, or an archive that cannot be read or holds none, as itself."""
    members: list[str] = []
    if path.suffix.lower() == ARCHIVE:
        try:
            with ZipFile(path) as archive:
                members = sorted(name for name in archive.namelist() if _is_mesh(name))
        except (BadZipFile, OSError):
            members = []
    yield from (MeshFile(path, member) for member in members)
    if not members:
        yield MeshFile(path)


def _unread(content: bytes, suffix: str) -> list[str]:
    """Extensions of a glTF file that trimesh passes over and that change what is seen."""
    header = content[20 : 20 + int.from_bytes(content[12:16], "little")] if suffix == ".glb" else content
    return [name for name in UNREAD if suffix in (".glb", ".gltf") and f'"{name}"'.encode() in header]


def _is_mesh(member: str) -> bool:
    path = PurePosixPath(member)
    return path.suffix.lower() in SUFFIXES and not any(part.startswith((".", "__MACOSX")) for part in path.parts)


class AssetResolver(Resolver):
    """Resolves the files that a mesh names, however the name is spelled; `missing` lists those that do not exist.

    Tried in turn: the path itself from the mesh's folder, then the name alone in TEXTURE_FOLDERS, whatever its case.
    """

    def __init__(self) -> None:
        self.missing: list[str] = []

    @abstractmethod
    def content(self, name: str) -> bytes:
        """Of a path from the root of the archive, or from the mesh's folder. Raises OSError, KeyError."""

    @abstractmethod
    def candidates(self, name: str) -> Iterator[str]:
        """Where a name may lie."""

    def get(self, key: str) -> bytes:
        name = OPTIONS.sub("", key.strip()).strip('"').replace("\\", "/")
        spellings = dict.fromkeys((name, unquote(name)))
        path = next((path for spelled in spellings for path in self.candidates(spelled)), None)
        if path is None:
            self.missing.append(f"{name} is not there")
            raise FileNotFoundError(name)
        content = self.content(path)
        if PurePosixPath(path).suffix.lower() in PICTURES:
            self._warn_if_damaged(name, content)
        return content

    def _warn_if_damaged(self, name: str, content: bytes) -> None:
        """trimesh passes over a picture that cannot be decoded without a word."""
        try:
            with Image.open(BytesIO(content)) as image:
                image.verify()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            self.missing.append(f"{name} cannot be decoded ({type(error).__name__})")

    def keys(self) -> list[str]:
        return []

    def write(self, name: str, data: Any) -> None:
        raise PermissionError("nothing is written beside a user's mesh")

    def namespaced(self, namespace: str) -> Resolver:
        return self


class FolderResolver(AssetResolver):
    """Beside a file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.folder = path.parent

    def content(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def candidates(self, name: str) -> Iterator[str]:
        if (self.folder / name).is_file():
            yield name
        wanted = PurePosixPath(name).name.lower()
        for folder in TEXTURE_FOLDERS:
            yield from (f"{folder}/{found}" for found in self._listed(folder) if found.lower() == wanted)

    def _listed(self, folder: str) -> list[str]:
        path = self.folder / folder
        return sorted(entry.name for entry in path.iterdir() if entry.is_file()) if path.is_dir() else []


class ArchiveResolver(AssetResolver):
    """Beside a member of a ZIP archive: in its folder first, then anywhere."""

    def __init__(self, path: Path, member: str) -> None:
        super().__init__()
        self.path, self.folder = path, PurePosixPath(member).parent
        with ZipFile(path) as archive:
            self.names = [name for name in archive.namelist() if not name.endswith("/")]

    def content(self, name: str) -> bytes:
        with ZipFile(self.path) as archive:
            return archive.read(name)

    def candidates(self, name: str) -> Iterator[str]:
        beside = _flat(self.folder / name)
        yield from (found for found in self.names if found.lower() == beside.lower())
        by_name = self._by_name.get(PurePosixPath(name).name.lower(), [])
        yield from sorted(by_name, key=lambda found: (not PurePosixPath(found).is_relative_to(self.folder), found))

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in self.names:
            if not name.startswith("__MACOSX"):
                found.setdefault(PurePosixPath(name).name.lower(), []).append(name)
        return found


def _flat(path: PurePosixPath) -> str:
    """Without "." and ".."."""
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts = parts[:-1]
        elif part != ".":
            parts.append(part)
    return "/".join(parts)
