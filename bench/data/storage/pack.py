"""`python -m bench.data pack DIR --out OUT`: the scenes of a root → the packed form (bench/data/storage/packed.py).

Written beside OUT and renamed when it is whole; a command that was stopped goes on where it was.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import lmdb
from rich.console import Console
from rich.filesize import decimal

from bench.common.environment import cores
from bench.common.errors import UserError
from bench.common.json_files import read_json, write_json
from bench.data.scene import VIEWS
from bench.data.storage import broken
from bench.data.storage.packed import (
    DATA,
    FORMAT,
    camera_key,
    encode_cameras,
    encode_view,
    view_key,
)
from bench.data.storage.parallel import each_scene
from bench.data.storage.store import (
    FORMS,
    PACKED,
    Broken,
    Kind,
    Store,
    open_store,
)

UNFINISHED, JOB, LOCK = ".unfinished-", "packing.json", "packing.lock"
KEY = 511  # bytes that LMDB allows
SPACE = 2**30  # bytes of addresses to begin with

Encoded = dict[bytes, bytes]
Defect = tuple[Kind, str, str]  # Broken's arguments


def pack(
    root: Path,
    out: Path,
    size: int,
    console: Console,
    workers: int | None = None,
    views: int = VIEWS,
    only: Sequence[str] | None = None,
    form: str = FORMS[0],
) -> dict[str, Broken]:
    """The broken scenes, which are left out. `views`, `form`: open_store's. `only`: these scenes. Raises UserError."""
    if size < 1:
        raise UserError(f"--size {size}: at least 1 pixel")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already: remove it, or name another --out")
    started = time.monotonic()
    store = open_store(root, True, views, form)
    opener = partial(open_store, root, False, views, form)
    names = sorted(only or store.scenes())
    if long := [name for name in names if len(view_key(name, 0)) > KEY]:
        raise UserError(f"a scene's path has at most {KEY - 6} bytes, unlike {long[0]}")
    of = {"root": str(root.resolve()), "views": views, "form": form}
    job = of | {"size": size, "only": sorted(only) if only else None}
    target = out.resolve()
    with _claimed(target.with_name(f"{UNFINISHED}{target.name}"), job) as unfinished:
        environment = lmdb.open(str(unfinished), map_size=SPACE, lock=False)
        try:
            there, found = _fill(environment, store, names, opener, size, workers or cores(), console)
            environment.sync(True)
        finally:
            environment.close()
        if not there:
            raise UserError(f"{root}: all {len(names)} scenes are broken\n{broken.table(found)}")
        content = {"format": FORMAT, "size": size, "count": len(there), "source": root.resolve().name}
        write_json(unfinished / PACKED, content | {"scenes": there, "broken": broken.rows(found)})
        for name in (JOB, LOCK):
            (unfinished / name).unlink()
        unfinished.rename(target)
    _tell(out, there, found, time.monotonic() - started, console)
    return found


def _fill(
    environment: lmdb.Environment,
    store: Store,
    names: Sequence[str],
    opener: Callable[[], Store],
    size: int,
    workers: int,
    console: Console,
) -> tuple[list[str], dict[str, Broken]]:
    """Pack what is missing: the scenes that are there now, and the broken ones."""
    known = store.broken()
    found = {name: known[name] for name in names if name in known}
    there = {name for name in names if _holds(environment, name)}
    missing = [name for name in names if name not in found and name not in there]
    console.print(f"{len(missing)} of {len(names)} scenes to pack at {size} px", soft_wrap=True)
    work = partial(encode, size)
    for name, made in each_scene(work, opener, missing, min(workers, len(missing) or 1), console, "packing"):
        if isinstance(made, tuple):
            found[name] = Broken(*made)
        else:
            _put(environment, made)
            there.add(name)
    return sorted(there), dict(sorted(found.items()))


def encode(size: int, store: Store, scene: str) -> Encoded | Defect:
    """Keys and values of one scene at a size, or what is wrong with it."""
    try:
        data = store.read(scene, range(len(store.cameras(scene)[0])), size)
    except Broken as defect:
        return defect.kind, defect.path, defect.detail
    except UserError as error:  # its pictures are smaller
        return "wrong size", scene, str(error)
    made = {camera_key(scene): encode_cameras(data.camera_to_world, data.field_of_view)}
    views = zip(data.images, data.depth, data.normals, strict=True)
    return made | {view_key(scene, i): encode_view(*view) for i, view in enumerate(views)}


@contextmanager
def _claimed(folder: Path, job: Mapping[str, object]) -> Iterator[Path]:
    """The folder of an unfinished pack, for this process alone. Raises UserError if it is of another job."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{folder}: another process is packing there") from error
        if not (folder / JOB).is_file():
            write_json(folder / JOB, job)
        begun = {key: value for key, value in read_json(folder / JOB).items() if key in job}
        if begun != job:
            raise UserError(f"{folder} holds the beginning of another pack, {begun}: remove it, or name another --out")
        yield folder


def _holds(environment: lmdb.Environment, scene: str) -> bool:
    with environment.begin() as transaction:
        return transaction.get(camera_key(scene)) is not None


def _put(environment: lmdb.Environment, made: Encoded) -> None:
    """A scene, whole or not at all."""
    try:
        with environment.begin(write=True) as transaction:
            for key, value in made.items():
                transaction.put(key, value)
    except lmdb.MapFullError:
        environment.set_mapsize(2 * environment.info()["map_size"])
        _put(environment, made)


def _tell(out: Path, there: Sequence[str], found: Mapping[str, Broken], seconds: float, console: Console) -> None:
    size = decimal((out / DATA).stat().st_size)
    console.print(
        f"{out}: {len(there)} scenes, {size}, {seconds:.0f} s; {len(found)} broken and left out", soft_wrap=True
    )
    if found:
        console.print(broken.table(found), markup=False, soft_wrap=True)
