"""Small data sets in G-Objaverse's format, in all its layouts, and ways to damage them."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.data.procedural.generator import generate
from bench.data.scene import SceneData
from bench.data.storage.write import LEVEL, write_scene

SIZE = 16
XML = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code></Error>' + b" " * 320


def scene(number: int, size: int = SIZE) -> SceneData:
    return generate(0, "training", number, size)


def write_root(root: Path, names: Sequence[str], first: int = 0) -> Path:
    """Folders with the level, scenes all different."""
    for i, name in enumerate(names):
        write_scene(scene(first + i), root / name / LEVEL)
    return root


def without_level(root: Path, out: Path) -> Path:
    for folder in root.glob(f"*/*/{LEVEL}"):
        shutil.copytree(folder, out / folder.parent.relative_to(root))
    return out


def as_tars(root: Path, out: Path) -> Path:
    for folder in root.glob("*/*"):
        target = out / folder.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(f"{target}.tar", "w") as tar:
            tar.add(folder, arcname=folder.name)
    return out


def in_categories(root: Path, out: Path) -> Path:
    for i, folder in enumerate(sorted(root.glob("*/*"))):
        shutil.copytree(folder, out / f"Category-{i % 2}" / folder.relative_to(root))
    return out


LAYOUTS: dict[str, Callable[[Path, Path], Path]] = {
    "level": lambda root, made: Path(shutil.copytree(root, made)),
    "plain": without_level,
    "tars": as_tars,
    "categories": in_categories,
}


def view_file(scene_folder: Path, view: int, suffix: str) -> Path:
    return scene_folder / LEVEL / f"{view:05d}" / f"{view:05d}{suffix}"


def change_camera(scene_folder: Path, view: int, **values: object) -> None:
    path = view_file(scene_folder, view, ".json")
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
