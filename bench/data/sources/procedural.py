"""The embedded default: procedural scenes, generated once on all cores and kept in the cache, 16 scenes a chunk."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.common.console import track
from bench.common.paths import cache_dir
from bench.data.procedural.generator import VERSION, generate
from bench.data.scene import (
    DISTINCT_VIEWS,
    LARA_VIEWS,
    SceneData,
    Split,
)
from models.parts import PartSpec

CHUNK = 16  # scenes
ARRAYS = ("images", "depth", "normals", "camera_to_world", "field_of_view")


@dataclass(frozen=True)
class Spec(PartSpec):
    """Scenes of a split are numbered from 0: more of them keeps the earlier ones."""

    version: str = VERSION
    training_scenes: int = 20_000
    validation_scenes: int = 200
    evaluation_scenes: int = 200
    seed: int = 0

    at_least = {"training_scenes": 0, "validation_scenes": 0, "evaluation_scenes": 1, "seed": 0}
    sizes = {
        "tiny": {"training_scenes": 400, "validation_scenes": 16, "evaluation_scenes": 32},
        "small": {"training_scenes": 4000, "validation_scenes": 50, "evaluation_scenes": 100},
    }

    def distinct_views(self) -> int:
        """Of a scene."""
        return DISTINCT_VIEWS

    def open(self, image_size: int, progress: bool = True) -> Procedural:
        """Open at an image size, generating what the cache lacks. Chunks that exist are not generated again."""
        source = Procedural(self, image_size)
        source.prepare(progress)
        return source


class Procedural:
    """Scene ids are "<split>/<number>"."""

    name = "procedural"

    def __init__(self, spec: Spec, image_size: int) -> None:
        self.version = spec.version
        self.spec, self.image_size = spec, image_size
        self.folder = cache_dir() / "procedural" / f"v{spec.version}-{image_size}px-seed{spec.seed}"
        self._chunk = lru_cache(maxsize=None)(self._open_chunk)

    def scenes(self, split: Split) -> Sequence[str]:
        return [f"{split}/{i:05d}" for i in range(self._counts()[split])]

    def read(self, scene: str, views: Sequence[int]) -> SceneData:
        arrays, i = self._locate(scene)
        chosen = list(views)
        return SceneData(
            images=arrays["images"][i, chosen],
            depth=arrays["depth"][i, chosen].astype(np.float32),
            normals=arrays["normals"][i, chosen].astype(np.float32) / np.float32(127),
            camera_to_world=arrays["camera_to_world"][i, chosen],
            field_of_view=arrays["field_of_view"][i, chosen],
        )

    def camera_centers(self, scene: str) -> NDArray[np.float64]:
        arrays, i = self._locate(scene)
        centers: NDArray[np.float64] = arrays["camera_to_world"][i, :, :3, 3]
        return centers

    def usable_views(self, scene: str) -> NDArray[np.int64]:
        """As of G-Objaverse, whose cameras these are."""
        return np.array(LARA_VIEWS)

    def prepare(self, progress: bool) -> None:
        """Generate every chunk that is missing, one process a core; each is committed by a rename."""
        missing = [
            (self.spec.seed, split, chunk, self.image_size, str(self._path(split, chunk)))
            for split, count in self._counts().items()
            for chunk in range(-(-count // CHUNK))
            if not self._path(split, chunk).is_dir()
        ]
        if not missing:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("forkserver")) as pool:
            chunks = pool.map(_generate_chunk, missing)
            title = f"generating procedural scenes at {self.image_size} px, {CHUNK} at a time"
            for _ in track(chunks, title, len(missing), visible=progress):
                pass

    def _counts(self) -> Mapping[Split, int]:
        spec = self.spec
        return {
            "training": spec.training_scenes,
            "validation": spec.validation_scenes,
            "evaluation": spec.evaluation_scenes,
        }

    def _path(self, split: Split, chunk: int) -> Path:
        return self.folder / f"{split}-{chunk:05d}"

    def _locate(self, scene: str) -> tuple[dict[str, NDArray[Any]], int]:
        split, _, number = scene.partition("/")
        return self._chunk(split, int(number) // CHUNK), int(number) % CHUNK

    def _open_chunk(self, split: Split, chunk: int) -> dict[str, NDArray[Any]]:
        return {n: np.load(self._path(split, chunk) / f"{n}.npy", mmap_mode="r").view(np.ndarray) for n in ARRAYS}


def _generate_chunk(job: tuple[int, Split, int, int, str]) -> None:
    """Generate one chunk under a temporary name and rename it; a chunk that another process finished first stays."""
    seed, split, chunk, image_size, path = job
    scenes = [generate(seed, split, chunk * CHUNK + i, image_size) for i in range(CHUNK)]
    target = Path(path)
    temporary = Path(mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    kinds = {"images": np.uint8, "depth": np.float16, "normals": np.int8}
    for name in ARRAYS:
        array = np.stack([getattr(scene, name) for scene in scenes])
        array = np.rint(array * 127) if name == "normals" else array
        np.save(temporary / f"{name}.npy", array.astype(kinds.get(name, np.float64)))
    try:
        temporary.rename(target)
    except OSError:  # it exists already
        for file in temporary.iterdir():
            file.unlink()
        temporary.rmdir()
