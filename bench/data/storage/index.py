"""What lies under a raw root: scenes in folders or tars, found once and kept in the cache. No picture is opened.

Kept by folder with its time of change: a folder that changed is looked through again, the others are not; nor is a
scene trusted that was broken before. 264,775 scenes are listed by a few reads of folders each.
"""

from __future__ import annotations

import hashlib
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
from bench.data.storage.pixels import check_magic
from bench.data.storage.store import Broken, Kind
from bench.data.storage.write import LEVEL

DEPTH = 4  # folders between the root and a scene, at most
THREADS = 16  # they wait for the file system
TAR_MAGIC, TAR_BLOCK = b"ustar", 512
VIEW = re.compile(r"\d{5}")
SUFFIXES = (".json", ".png", "_nd.exr")


@dataclass(frozen=True)
class SceneLocation:
    """A scene: where it lies under the root, and what is known to be wrong with it."""

    path: str  # of the folder that holds the views, or of the tar
    broken: tuple[Kind, str, str] | None = None  # Broken's arguments


@dataclass
class Folder:
    """A folder above scenes, as it was when it was looked through."""

    changed_ns: int
    scenes: dict[str, SceneLocation] = field(default_factory=dict)  # by their paths without level or .tar
    folders: list[str] = field(default_factory=list)


def index(root: Path, views: int, progress: bool) -> dict[str, SceneLocation]:
    """Scene → place, sorted by name. Raises UserError where there is none."""
    root = root.resolve()
    kept = cache_folder(root, views) / "index.json"
    before = _load(kept)
    after: dict[str, Folder] = {}
    shown = console.progress(f"indexing scenes of {root}", visible=progress)
    with shown as advance, ThreadPoolExecutor(THREADS) as pool:
        level = [""]
        for _ in range(DEPTH):
            for relative in level:
                after[relative] = _look_through(root, relative, before.get(relative), views, pool)
                advance(len(after[relative].scenes))
            level = [name for relative in level for name in after[relative].folders]
    if after != before:
        write_json(kept, {"root": str(root), "views": views, "folders": {k: _plain(v) for k, v in after.items()}})
    places = dict(chain.from_iterable(folder.scenes.items() for folder in after.values()))
    places |= {name: SceneLocation(name, missing_view([], views, f"{root}/{name}")) for name in _empty(after)}
    if not places:
        raise UserError(
            f"{root} holds no scene: wanted are ROOT/<dictionary>/<instance>/{LEVEL}/00000/00000.json, .png and "
            f"_nd.exr, the same without {LEVEL}, or one .tar a scene; category folders may stand above "
            "(GSO and OmniObject3D: --data gso, --data omniobject3d; in a spec data=gso, data=omniobject3d)"
        )
    return _named(places)


def cache_folder(root: Path, views: int) -> Path:
    """Where what is known of a root is kept."""
    return cache_dir() / "index" / hashlib.sha256(f"{root}\n{views}".encode()).hexdigest()[:16]


def _look_through(root: Path, relative: str, before: Folder | None, views: int, pool: ThreadPoolExecutor) -> Folder:
    path = root / relative
    changed_ns = path.stat().st_mtime_ns
    if before is not None and before.changed_ns == changed_ns:
        again = [name for name, place in before.scenes.items() if place.broken]
        fresh = dict(zip(again, pool.map(lambda name: _look_at(root, name, views), again), strict=True))
        if all(found is not None for found in fresh.values()):
            scenes = before.scenes | {name: place for name, place in fresh.items() if place}
            return Folder(changed_ns, scenes, before.folders)
    with os.scandir(path) as entries:
        kinds = {entry.name: entry.is_dir() for entry in entries if not entry.name.startswith(".")}
    names = sorted(name.removesuffix(".tar") for name, is_folder in kinds.items() if is_folder or name.endswith(".tar"))
    paths = [f"{relative}/{name}".lstrip("/") for name in dict.fromkeys(names)]
    found = list(zip(paths, pool.map(lambda name: _look_at(root, name, views), paths), strict=True))
    return Folder(changed_ns, {n: place for n, place in found if place}, [n for n, place in found if not place])


def _look_at(root: Path, relative: str, views: int) -> SceneLocation | None:
    """The scene of that name; None for a folder that is none."""
    tar = root / f"{relative}.tar"
    if tar.is_file():
        return SceneLocation(f"{relative}.tar", _damage(tar))
    folder, level = root / relative, root / relative / LEVEL
    if level.is_dir():
        return SceneLocation(
            f"{relative}/{LEVEL}", missing_view(_view_numbers(level), views, f"{root}/{relative}/{LEVEL}")
        )
    found = _view_numbers(folder)  # an instance's number may look like a view's
    if found and _is_view(folder / f"{found[0]:05d}"):
        return SceneLocation(relative, missing_view(found, views, f"{root}/{relative}"))
    return None


def missing_view(found: Sequence[int], views: int, where: str) -> tuple[Kind, str, str] | None:
    """What to say of a scene that has not just views 0 … `views` − 1."""
    if list(found) == list(range(views)):
        return None
    absent = sorted(set(range(views)) - set(found))
    if absent:
        listed = ", ".join(str(view) for view in absent[:8]) + (", …" if len(absent) > 8 else "")
        return "missing view", where, f"{len(absent)} of {views} views are absent: {listed}"
    return "missing view", where, f"{len(found)} views, not {views} (data.scene_views says how many there are)"


def _view_numbers(folder: Path) -> list[int]:
    with os.scandir(folder) as entries:
        return sorted(int(entry.name) for entry in entries if VIEW.fullmatch(entry.name))


def _is_view(folder: Path) -> bool:
    return any((folder / f"{folder.name}{suffix}").exists() for suffix in SUFFIXES)


def _damage(tar: Path) -> tuple[Kind, str, str] | None:
    """What the ends of a tar tell: its magic number, and the two empty blocks that close it."""
    with tar.open("rb") as file:
        start = file.read(TAR_BLOCK)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 2 * TAR_BLOCK))
        end = file.read()
    try:
        check_magic(start, TAR_MAGIC, tar.name, offset=257)
    except Broken as broken:
        return broken.kind, str(tar), broken.detail
    if size % TAR_BLOCK or any(end):
        return "truncated", str(tar), f"{size} bytes without the end of a tar"
    return None


def _empty(folders: Mapping[str, Folder]) -> Iterator[str]:
    """Folders beside scenes that hold nothing."""
    for relative, folder in folders.items():
        parent = folders.get(relative.rpartition("/")[0]) if relative else None
        if parent and parent.scenes and not folder.scenes and not folder.folders:
            yield relative


def _named(places: Mapping[str, SceneLocation]) -> dict[str, SceneLocation]:
    """By "<dictionary>/<instance>", whatever stands above; where that is not unique, by the whole path."""
    short = {path: "/".join(path.split("/")[-2:]) for path in places}
    count: dict[str, int] = {}
    for name in short.values():
        count[name] = count.get(name, 0) + 1
    named = {(short[path] if count[short[path]] == 1 else path): place for path, place in places.items()}
    return dict(sorted(named.items()))


def _load(path: Path) -> dict[str, Folder]:
    """What is kept; nothing where that is damaged."""
    try:
        content = read_json(path) if path.is_file() else {"folders": {}}
    except UserError:
        return {}
    return dict(_folders(content["folders"]))


def _folders(content: Mapping[str, Any]) -> Iterator[tuple[str, Folder]]:
    for relative, (changed_ns, scenes, folders) in content.items():
        places = {name: SceneLocation(place[0], tuple(place[1:]) or None) for name, place in scenes.items()}
        yield relative, Folder(changed_ns, places, folders)


def _plain(folder: Folder) -> list[Any]:
    scenes = {name: [place.path, *(place.broken or ())] for name, place in folder.scenes.items()}
    return [folder.changed_ns, scenes, folder.folders]
