"""`python -m bench.data render MESHES… --out DIR`: a user's own meshes → a data set in G-Objaverse's format.

Every scene is made beside its place and renamed there: a command that was killed goes on where it stopped. SOURCE, in a
scene's folder, tells what it was made from.
"""

from __future__ import annotations

import fcntl
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console

from bench.common.console import progress
from bench.common.environment import cores
from bench.common.errors import UserError
from bench.common.json_files import read_json, write_json
from bench.data.meshes import loader
from bench.data.meshes.files import SUFFIXES, MeshFile, find_meshes
from bench.data.storage.store import PACKED
from bench.data.storage.write import LEVEL, write_scene

DICTIONARY = "meshes"  # of scenes named by their file
UNFINISHED = ".unfinished-"
SOURCE, LOCK = "source.json", ".render.lock"
SHOWN = 5  # problems


@dataclass(frozen=True)
class Job:
    """One scene to make: its name, "<dictionary>/<instance>", and its mesh."""

    scene: str
    file: MeshFile


@dataclass(frozen=True)
class RenderResult:
    """How a job ended: `error` where there is no scene, `notes` on what the scene lacks."""

    scene: str
    error: str = ""
    warnings: tuple[str, ...] = ()


def render(paths: Sequence[Path], out: Path, size: int, console: Console) -> int:
    """Every mesh file named, or below a folder or in an archive named; 0, or 1 when some could not be rendered.

    Raises UserError.
    """
    found = list(dict.fromkeys(find_meshes(paths)))
    if not found:
        raise UserError(f"no meshes: name files that end in {', '.join(SUFFIXES)}, or folders or ZIPs that hold some")
    jobs = [Job(f"{DICTIONARY}/{name}", file) for file, name in scene_names(found).items()]
    return 1 if render_jobs(jobs, out, size, console) else 0


def scene_names(files: Sequence[MeshFile]) -> Mapping[MeshFile, str]:
    """A scene's name for each file: its own; its folders in front where that names two files."""
    count = Counter(file.name for file in files)
    made = {file: file.name if count[file.name] == 1 else file.long_name for file in files}
    clean = {file: re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "mesh" for file, name in made.items()}
    repeated = Counter(clean.values())
    return {file: name if repeated[name] == 1 else f"{name}-{i}" for i, (file, name) in enumerate(clean.items())}


def render_jobs(jobs: Sequence[Job], out: Path, size: int, console: Console) -> dict[str, str]:
    """All jobs on all cores; scene → why it could not be made. What is there already stays.

    Raises UserError where that was made from something else, or when the disk is full.
    """
    if size < 1:
        raise UserError(f"--size {size}: at least 1 pixel")
    if (out / PACKED).is_file():
        raise UserError(f"{out} is packed, and takes no more scenes: name another --out, and pack that")
    out.mkdir(parents=True, exist_ok=True)
    failed: dict[str, str] = {}
    with _alone(out):
        for left in out.glob(f"*/{UNFINISHED}*"):
            shutil.rmtree(left)
        missing = [job for job in jobs if not (out / job.scene).is_dir()]
        _refuse_others(jobs, out, size)
        console.print(f"{len(missing)} of {len(jobs)} scenes to render at {size} px → {out}", highlight=False)
        try:
            for made in _made(missing, out, size, console):
                _tell(made, console)
                if made.error:
                    failed[made.scene] = made.error
        except OSError as error:
            raise UserError(f"{out}: {error}; when that is mended, the same command goes on") from error
    console.print(f"{len(jobs) - len(failed)} scenes are there, {len(failed)} could not be rendered", highlight=False)
    return failed


def _tell(made: RenderResult, console: Console) -> None:
    for text in [made.error] if made.error else [f"rendered, but {note}" for note in made.warnings]:
        console.print(f"{made.scene}: {text}", style="red", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Raises UserError while another process renders there."""
    with (out / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{out}: another process is rendering there; wait, or name another --out") from error
        yield


def _refuse_others(jobs: Sequence[Job], out: Path, size: int) -> None:
    """Raise UserError where a job's name is another mesh's there, or of another size, or its mesh has another name."""
    sources = {str(path.parent.relative_to(out)): read_json(path) for path in out.glob(f"*/*/{SOURCE}")}
    others = {sources[scene]["fingerprint"]: scene for scene in set(sources) - {job.scene for job in jobs}}
    problems = []
    for job in jobs:
        source = sources.get(job.scene)
        if source is None:
            if others and (twin := others.get(job.file.fingerprint)):
                problems.append(f"{job.file} is there as {twin}, and now would be {job.scene}")
        elif source["size"] != size:
            problems.append(f"{job.scene} is there at {source['size']} px, not {size}")
        elif source["fingerprint"] != job.file.fingerprint:
            other = "before it changed" if source["file"] == str(job.file) else f"not {job.file}"
            problems.append(f"{job.scene} was made from {source['file']}, {other}")
    if problems:
        more = [f"… {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise UserError("\n".join([f"{out} holds other scenes: name another --out", *problems[:SHOWN], *more]))


def _made(jobs: Sequence[Job], out: Path, size: int, console: Console) -> Iterator[RenderResult]:
    """As they end. Where a process dies, those that it may have had run again, each alone."""
    waiting, workers = list(jobs), cores()
    with progress("rendering meshes", len(jobs), console) as advance:
        while waiting:
            ended = set()
            for made in _pooled(waiting, out, size, workers):
                ended.add(made.scene)
                advance(1)
                yield made
            waiting = [job for job in waiting if job.scene not in ended]
            suspects, waiting = waiting[: 2 * workers + 1], waiting[2 * workers + 1 :]
            for job in suspects:
                died = RenderResult(job.scene, f"{job.file}: its process died, perhaps for lack of memory")
                yield next(iter(list(_pooled([job], out, size, 1))), died)
                advance(1)


def _pooled(jobs: Sequence[Job], out: Path, size: int, workers: int) -> Iterator[RenderResult]:
    """As they end, but those that were lost when a process died."""
    with ProcessPoolExecutor(workers, mp_context=get_context("forkserver")) as pool:
        try:
            running = [pool.submit(render_one, job, out, size) for job in jobs]
            for future in as_completed(running):
                if not isinstance(future.exception(), BrokenProcessPool):
                    yield future.result()
        except BrokenProcessPool:  # while jobs were handed over
            return
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def render_one(job: Job, out: Path, size: int) -> RenderResult:
    """One scene, whole or not at all. Raises OSError where it cannot be written."""
    target = out / job.scene
    if target.is_dir():
        return RenderResult(job.scene)
    try:
        mesh = loader.load(job.file)
        scene = loader.render(mesh, size)
    except UserError as error:
        return RenderResult(job.scene, str(error))
    except Exception as error:  # one file never ends the others
        return RenderResult(job.scene, f"{job.file}: cannot be rendered ({type(error).__name__}: {error})")
    if not scene.images[..., 3].any(axis=(1, 2)).all():
        return RenderResult(
            job.scene, f"{job.file}: some views show nothing: its triangles are too thin, or transparent"
        )
    unfinished = target.with_name(f"{UNFINISHED}{target.name}")
    source = {"file": str(job.file), "fingerprint": job.file.fingerprint, "size": size, "missing": mesh.missing}
    try:
        write_scene(scene, unfinished / LEVEL)
        write_json(unfinished / SOURCE, source)
        unfinished.rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return RenderResult(job.scene, warnings=mesh.missing)
