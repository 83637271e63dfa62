"""`python -m bench.data render MESHES… --out DIR`: a user's own meshes → a data set in G-Objaverse's format.

Every scene is made beside its place and renamed there: a command that was killed goes on where it stopped.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from bench.data import meshes
from bench.data.write import LEVEL, write_scene
from bench.environment import cores
from bench.errors import BadInput

DICTIONARY = "meshes"  # of scenes named by their file
UNFINISHED = ".unfinished-"


@dataclass(frozen=True)
class Job:
    """One scene to make: its name, and what loads its mesh (a function that another process can import)."""

    scene: str  # "<dictionary>/<instance>"
    load: Callable[..., meshes.Mesh]
    arguments: tuple[Any, ...]


def render(paths: Sequence[Path], out: Path, size: int, console: Console) -> int:
    """Every mesh file named, or below a folder named; 0, or 1 when some could not be rendered. Raises BadInput."""
    found = list(dict.fromkeys(meshes.find(list(paths))))
    if not found:
        raise BadInput(f"no meshes: name files that end in {', '.join(meshes.SUFFIXES)}, or folders that hold some")
    jobs = [Job(f"{DICTIONARY}/{name}", meshes.load, (path,)) for path, name in names(found).items()]
    return 1 if make(jobs, out, size, console) else 0


def names(paths: Sequence[Path]) -> Mapping[Path, str]:
    """A scene's name for each file: its own without suffix; its folders in front where that names two files."""
    stems = Counter(path.stem for path in paths)
    made = {path: path.stem if stems[path.stem] == 1 else "_".join([*path.resolve().parts[-3:-1], path.name])
            for path in paths}  # fmt: skip
    clean = {path: re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "mesh" for path, name in made.items()}
    repeated = Counter(clean.values())
    return {path: name if repeated[name] == 1 else f"{name}-{i}" for i, (path, name) in enumerate(clean.items())}


def make(jobs: Sequence[Job], out: Path, size: int, console: Console) -> dict[str, str]:
    """All jobs on all cores; scene → why it could not be made. What is there already stays."""
    if size < 1:
        raise BadInput(f"--size {size}: at least 1 pixel")
    out.mkdir(parents=True, exist_ok=True)
    for left in out.glob(f"*/{UNFINISHED}*"):
        shutil.rmtree(left)
    missing = [job for job in jobs if not (out / job.scene).is_dir()]
    console.print(f"{len(missing)} of {len(jobs)} scenes to render at {size} px → {out}", highlight=False)
    failed: dict[str, str] = {}
    for scene, error in _made(missing, out, size, console):
        if error:
            failed[scene] = error
            console.print(f"{scene}: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    console.print(f"{len(jobs) - len(failed)} scenes are there, {len(failed)} could not be rendered", highlight=False)
    return failed


def _made(jobs: Sequence[Job], out: Path, size: int, console: Console) -> Iterator[tuple[str, str]]:
    """(scene, error or "") as they end."""
    with (
        ProcessPoolExecutor(cores(), mp_context=get_context("forkserver")) as pool,
        Progress(console=console, disable=not console.is_terminal) as progress,
    ):
        running = [pool.submit(make_one, job, out, size) for job in jobs]
        task = progress.add_task("rendering", total=len(jobs))
        try:
            for future in as_completed(running):
                progress.advance(task)
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def make_one(job: Job, out: Path, size: int) -> tuple[str, str]:
    """One scene, whole or not at all: (its name, "" or why not)."""
    target = out / job.scene
    unfinished = target.with_name(f"{UNFINISHED}{target.name}")
    try:
        scene = meshes.render(job.load(*job.arguments), size)
        if not scene.images[..., 3].any(axis=(1, 2)).all():
            return job.scene, "some views show nothing: its triangles are too thin, or transparent"
        write_scene(scene, unfinished / LEVEL)
        unfinished.rename(target)
    except BadInput as error:
        return job.scene, str(error)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return job.scene, ""
