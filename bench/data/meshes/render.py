"""`python -m bench.data render MESHES… --out DIR`: a user's own meshes → a data set in G-Objaverse's format.

Every scene is written beside its target and renamed: re-running the command after a kill resumes. SOURCE, in a scene's
folder, records the file that it was rendered from and what of it is missing.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
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
from bench.data.meshes.views import render_views
from bench.data.storage.store import PACKED
from bench.data.storage.write import LEVEL, write_scene

DICTIONARY = "meshes"  # of scenes named by their file
UNFINISHED = ".unfinished-"
SOURCE, LOCK = "source.json", ".render.lock"
MAX_CONFLICTS = 5  # listed in an error
MAX_NAME = 100  # characters of a scene's name: a longer one is cut, and a hash of it appended
OUTPUT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)  # of every scene


@dataclass(frozen=True)
class Job:
    """One scene to render: its name, "<dictionary>/<instance>", and its mesh."""

    scene: str
    file: MeshFile
    up: loader.Up = "auto"


@dataclass(frozen=True)
class RenderResult:
    """Outcome of a job: `error` where there is no scene, `warnings` on what the scene lacks."""

    scene: str
    error: str = ""
    warnings: tuple[str, ...] = ()


def render(paths: Sequence[Path], out: Path, size: int, console: Console, up: loader.Up = "auto") -> int:
    """Render every mesh file named, or below a folder or in an archive named.

    Args:
        up: the files' axis that points up; auto: by custom of their format.

    Returns the exit code: 1 when some could not be rendered. Raises UserError.
    """
    files = list(dict.fromkeys(find_meshes(paths)))
    if not files:
        raise UserError(f"no meshes: name files that end in {', '.join(SUFFIXES)}, or folders or ZIPs that hold some")
    jobs = [Job(f"{DICTIONARY}/{name}", file, up) for file, name in scene_names(files).items()]
    return 1 if render_jobs(jobs, out, size, console) else 0


def scene_names(files: Sequence[MeshFile]) -> Mapping[MeshFile, str]:
    """A scene's name for each file, at most MAX_NAME characters: its stem, with its folders where two share one."""
    count = Counter(file.name for file in files)
    names = {file: file.name if count[file.name] == 1 else file.long_name for file in files}
    clean = {file: _file_name(name) for file, name in names.items()}
    repeated = Counter(clean.values())
    return {file: name if repeated[name] == 1 else f"{name}-{i}" for i, (file, name) in enumerate(clean.items())}


def _file_name(name: str) -> str:
    clean = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "mesh"
    if len(clean) <= MAX_NAME:
        return clean
    return f"{clean[: MAX_NAME - 9]}-{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()[:8]}"


def render_jobs(jobs: Sequence[Job], out: Path, size: int, console: Console) -> dict[str, str]:
    """Render all jobs on all cores; returns scene → reason of those that failed. Existing scenes are kept.

    Raises UserError where an existing scene is of another source, or when `out` cannot be written.
    """
    if size < 1:
        raise UserError(f"--size {size}: at least 1 pixel")
    if (out / PACKED).is_file():
        raise UserError(f"{out} is packed, and takes no more scenes: name another --out, and pack that")
    out.mkdir(parents=True, exist_ok=True)
    failed: dict[str, str] = {}
    with _exclusive(out):
        for leftover in out.glob(f"*/{UNFINISHED}*"):
            shutil.rmtree(leftover)
        pending = [job for job in jobs if not (out / job.scene).is_dir()]
        _verify_sources(jobs, out, size)
        console.print(f"{len(pending)} of {len(jobs)} scenes to render at {size} px → {out}", highlight=False)
        try:
            for result in _render_pending(pending, out, size, console):
                _print_result(result, console)
                if result.error:
                    failed[result.scene] = result.error
        except OSError as error:
            raise UserError(f"{out}: {error}; once that is fixed, re-run the same command to resume") from error
    console.print(f"{len(jobs) - len(failed)} scenes complete, {len(failed)} could not be rendered", highlight=False)
    return failed


def _print_result(result: RenderResult, console: Console) -> None:
    for text in [result.error] if result.error else [f"rendered, but {warning}" for warning in result.warnings]:
        console.print(f"{result.scene}: {text}", style="red", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _exclusive(out: Path) -> Iterator[None]:
    """Raises UserError while another process renders into `out`."""
    with (out / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{out}: another process is rendering there; wait, or name another --out") from error
        yield


def _verify_sources(jobs: Sequence[Job], out: Path, size: int) -> None:
    """Raise UserError where a job's scene exists from another mesh or size, or its mesh exists under another name."""
    sources = {str(path.parent.relative_to(out)): read_json(path) for path in out.glob(f"*/*/{SOURCE}")}
    others = {sources[scene]["fingerprint"]: scene for scene in set(sources) - {job.scene for job in jobs}}
    problems = []
    for job in jobs:
        source = sources.get(job.scene)
        if source is None:
            if others and (twin := others.get(job.file.fingerprint)):
                problems.append(f"{job.file} exists as {twin}, and would now be {job.scene}")
        elif source["size"] != size:
            problems.append(f"{job.scene} exists at {source['size']} px, not {size}")
        elif source.get("up", "auto") != job.up:
            problems.append(f"{job.scene} exists with --up {source.get('up', 'auto')}, not {job.up}")
        elif source["fingerprint"] != job.file.fingerprint:
            other = "before it changed" if source["file"] == str(job.file) else f"not {job.file}"
            problems.append(f"{job.scene} was rendered from {source['file']}, {other}")
    if problems:
        more = [f"… {len(problems) - MAX_CONFLICTS} more"] if len(problems) > MAX_CONFLICTS else []
        raise UserError("\n".join([f"{out} holds other scenes: name another --out", *problems[:MAX_CONFLICTS], *more]))


def _render_pending(jobs: Sequence[Job], out: Path, size: int, console: Console) -> Iterator[RenderResult]:
    """Results as they complete. Where a worker dies, the jobs that it may have had are run again, each alone."""
    pending, workers = list(jobs), cores()
    with progress("rendering meshes", len(jobs), console) as advance:
        while pending:
            completed = set()
            for result in _render_in_pool(pending, out, size, workers):
                completed.add(result.scene)
                advance(1)
                yield result
            pending = [job for job in pending if job.scene not in completed]
            suspects, pending = pending[: 2 * workers + 1], pending[2 * workers + 1 :]
            for job in suspects:
                killed = RenderResult(job.scene, f"{job.file}: its process was killed, perhaps for lack of memory")
                yield next(iter(list(_render_in_pool([job], out, size, 1))), killed)
                advance(1)


def _render_in_pool(jobs: Sequence[Job], out: Path, size: int, workers: int) -> Iterator[RenderResult]:
    """Results as they complete, without those that were lost when a worker died."""
    with ProcessPoolExecutor(workers, mp_context=get_context("forkserver")) as pool:
        try:
            futures = [pool.submit(render_one, job, out, size) for job in jobs]
            for future in as_completed(futures):
                if not isinstance(future.exception(), BrokenProcessPool):
                    yield future.result()
        except BrokenProcessPool:  # while jobs were submitted
            return
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def render_one(job: Job, out: Path, size: int) -> RenderResult:
    """Render one scene, complete or not at all. Raises OSError where `out` cannot be written."""
    target = out / job.scene
    if target.is_dir():
        return RenderResult(job.scene)
    try:
        mesh = loader.load(job.file, job.up)
        scene = render_views(mesh, size)
    except UserError as error:
        return RenderResult(job.scene, str(error))
    except Exception as error:  # one file never ends the others
        return RenderResult(job.scene, f"{job.file}: cannot be rendered ({type(error).__name__}: {error})")
    if not scene.images[..., 3].any(axis=(1, 2)).all():
        reason = "some views are empty: its triangles are too thin, or transparent"
        return RenderResult(job.scene, f"{job.file}: {reason}")
    unfinished = target.with_name(f"{UNFINISHED}{target.name}")
    source = {"file": str(job.file), "fingerprint": job.file.fingerprint, "size": size, "up": job.up}
    try:
        write_scene(scene, unfinished / LEVEL)
        write_json(unfinished / SOURCE, source | {"missing": mesh.missing})
        unfinished.rename(target)
    except OSError as error:
        if error.errno in OUTPUT_ERRORS:
            raise
        return RenderResult(job.scene, f"{job.file}: its scene cannot be written ({error})")
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return RenderResult(job.scene, warnings=mesh.missing)
