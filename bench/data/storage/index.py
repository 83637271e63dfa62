"""The scenes under a raw root, in folders or tars, indexed once and cached. No picture is opened.

Cached by folder with its time of change: a folder that changed is scanned again, the others are not; scenes that were
broken before and folders that could not be read are probed again. 264,775 scenes are listed by a few reads of folders
each.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from bench.common import console
from bench.common.errors import UserError
from bench.common.json_files import read_json, write_json
from bench.common.paths import cache_dir
from bench.data.storage.files import check_magic, is_utf8, readable
from bench.data.storage.store import Broken, Kind
from bench.data.storage.write import LEVEL

log = logging.getLogger(__name__)

DEPTH = 4  # folders between the root and a scene, at most
THREADS = 16  # they wait for the file system
TAR_MAGIC, TAR_BLOCK = b"ustar", 512
VIEW = re.compile(r"\d{5}", re.ASCII)
SUFFIXES = (".json", ".png", "_nd.exr")
NOT_UTF8 = "the name is not UTF-8: rename it"
UNREADABLE = "unreadable"  # what _probe says of a folder

Defect = tuple[Kind, str, str]  # Broken's arguments


@dataclass(frozen=True)
class SceneLocation:
    """A scene: where it lies under the root, and what is known to be wrong with it."""

    path: str  # of the folder that holds the views, or of the tar
    broken: Defect | None = None


@dataclass
class Folder:
    """A folder above scenes, as it was when it was scanned."""

    changed_ns: int
    scenes: dict[str, SceneLocation] = field(default_factory=dict)  # by their paths without level or .tar
    folders: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def index(root: Path, views: int, progress: bool) -> dict[str, SceneLocation]:
    """Scene → location, sorted by name; names the folders that cannot be read. Raises UserError without a scene."""
    root = root.resolve()
    cached = cache_folder(root, views) / "index.json"
    before = _load(cached)
    after: dict[str, Folder] = {}
    progress_bar = console.progress(f"indexing scenes of {readable(root)}", visible=progress)
    with progress_bar as advance, ThreadPoolExecutor(THREADS) as pool:
        level = [""]
        for _ in range(DEPTH):
            for relative in level:
                after[relative] = _scan(root, relative, before.get(relative), views, pool)
                advance(len(after[relative].scenes))
            level = [name for relative in level for name in after[relative].folders]
    if after != before:
        folders = {relative: _to_list(folder) for relative, folder in after.items()}
        write_json(cached, {"root": readable(root), "views": views, "folders": folders})
    for relative in chain.from_iterable(folder.unreadable for folder in after.values()):
        log.warning("%s: the folder cannot be read and is skipped", readable(root / relative))
    locations = dict(chain.from_iterable(folder.scenes.items() for folder in after.values()))
    for name in _empty(after):
        locations[name] = SceneLocation(name, missing_view([], views, f"{readable(root)}/{name}"))
    if not locations:
        raise UserError(
            f"{readable(root)} holds no scene: expected are ROOT/<dictionary>/<instance>/{LEVEL}/00000/00000.json, "
            f".png and _nd.exr, the same without {LEVEL}, or one .tar a scene; category folders may stand above "
            "(GSO and OmniObject3D: --data gso, --data omniobject3d; in a spec data=gso, data=omniobject3d)"
        )
    return _by_short_name(locations)


def cache_folder(root: Path, views: int) -> Path:
    """Where the index of a root is cached."""
    return cache_dir() / "index" / hashlib.sha256(os.fsencode(root) + f"\n{views}".encode()).hexdigest()[:16]


def _scan(root: Path, relative: str, before: Folder | None, views: int, pool: ThreadPoolExecutor) -> Folder:
    path = root / relative
    changed_ns = path.stat().st_mtime_ns
    if before is not None and before.changed_ns == changed_ns and not before.unreadable:
        broken_before = [name for name, location in before.scenes.items() if location.broken]
        probed = dict(zip(broken_before, pool.map(lambda name: _probe(root, name, views), broken_before), strict=True))
        if all(isinstance(result, SceneLocation) for result in probed.values()):
            fresh = {name: result for name, result in probed.items() if isinstance(result, SceneLocation)}
            return Folder(changed_ns, before.scenes | fresh, before.folders)
    with os.scandir(path) as entries:
        kinds = {entry.name: entry.is_dir() for entry in entries if not entry.name.startswith(".")}
    tars = {name.removesuffix(".tar") for name, is_folder in kinds.items() if name.endswith(".tar") and not is_folder}
    names = sorted(tars | {name for name, is_folder in kinds.items() if is_folder})
    paths = [f"{relative}/{name}".lstrip("/") for name in names]
    folder = Folder(changed_ns)
    for name, result in zip(paths, pool.map(lambda name: _probe(root, name, views), paths), strict=True):
        if isinstance(result, SceneLocation):
            folder.scenes[readable(name)] = result
        elif result == UNREADABLE:
            folder.unreadable.append(name)
        else:
            folder.folders.append(name)
    return folder


def _probe(root: Path, relative: str, views: int) -> SceneLocation | str | None:
    """The scene of that name; None for a folder that is none; UNREADABLE."""
    where = readable(root / relative)
    if not is_utf8(relative):
        return SceneLocation(readable(relative), ("bad name", where, NOT_UTF8))
    tar, folder = root / f"{relative}.tar", root / relative
    try:
        if os.path.isfile(tar):  # noqa: PTH113 (Path raises an error for a name that is too long)
            return SceneLocation(f"{relative}.tar", _tar_defect(tar))
        if (folder / LEVEL).is_dir():
            numbers = _view_numbers(folder / LEVEL)
            return SceneLocation(f"{relative}/{LEVEL}", missing_view(numbers, views, f"{where}/{LEVEL}"))
        numbers = _view_numbers(folder)  # an instance's number may look like a view's
        if numbers and _is_view(folder / f"{numbers[0]:05d}"):
            return SceneLocation(relative, missing_view(numbers, views, where))
    except OSError:
        return UNREADABLE
    return None


def missing_view(numbers: Sequence[int], views: int, where: str) -> Defect | None:
    """The defect of a scene whose views are not numbered 0 … `views` − 1."""
    if list(numbers) == list(range(views)):
        return None
    absent = sorted(set(range(views)) - set(numbers))
    if absent:
        listed = ", ".join(str(view) for view in absent[:8]) + (", …" if len(absent) > 8 else "")
        return "missing view", where, f"{len(absent)} of {views} views are absent: {listed}"
    return "missing view", where, f"{len(numbers)} views, not {views} (set data.scene_views or --views to their number)"


def _view_numbers(folder: Path) -> list[int]:
    with os.scandir(folder) as entries:
        return sorted(int(entry.name) for entry in entries if VIEW.fullmatch(entry.name))


def _is_view(folder: Path) -> bool:
    return any((folder / f"{folder.name}{suffix}").exists() for suffix in SUFFIXES)


def _tar_defect(tar: Path) -> Defect | None:
    """What the ends of a tar show: its magic number, and the two empty blocks that close it."""
    try:
        with tar.open("rb") as file:
            start = file.read(TAR_BLOCK)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 2 * TAR_BLOCK))
            end = file.read()
        check_magic(start, TAR_MAGIC, tar.name, offset=257)
    except Broken as broken:
        return broken.kind, str(tar), broken.detail
    except OSError as error:
        return "unreadable", str(tar), error.strerror or str(error)
    if size % TAR_BLOCK or any(end):
        return "truncated", str(tar), f"{size} bytes without the end of a tar"
    return None


def _empty(folders: Mapping[str, Folder]) -> Iterator[str]:
    """Folders beside scenes that hold nothing."""
    for relative, folder in folders.items():
        parent = folders.get(relative.rpartition("/")[0]) if relative else None
        if parent and parent.scenes and not (folder.scenes or folder.folders or folder.unreadable):
            yield relative


def _by_short_name(locations: Mapping[str, SceneLocation]) -> dict[str, SceneLocation]:
    """By "<dictionary>/<instance>", whatever stands above; where that is not unique, by the whole path."""
    short = {path: "/".join(path.split("/")[-2:]) for path in locations}
    count: dict[str, int] = {}
    for name in short.values():
        count[name] = count.get(name, 0) + 1
    named = {(short[path] if count[short[path]] == 1 else path): place for path, place in locations.items()}
    return dict(sorted(named.items()))


def _load(path: Path) -> dict[str, Folder]:
    """The cached index; empty where there is none, or one of another version."""
    try:
        content = read_json(path) if path.is_file() else {"folders": {}}
        return dict(_folders(content["folders"]))
    except (UserError, ValueError, KeyError, TypeError):
        return {}


def _folders(content: Mapping[str, Any]) -> Iterator[tuple[str, Folder]]:
    for relative, (changed_ns, scenes, folders, unreadable) in content.items():
        locations = {name: SceneLocation(place[0], tuple(place[1:]) or None) for name, place in scenes.items()}
        yield relative, Folder(changed_ns, locations, folders, unreadable)


def _to_list(folder: Folder) -> list[Any]:
    scenes = {name: [location.path, *(location.broken or ())] for name, location in folder.scenes.items()}
    return [folder.changed_ns, scenes, folder.folders, folder.unreadable]
