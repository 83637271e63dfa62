"""`python -m bench.data pack DIR --out OUT`: the scenes of a root → the packed form (bench/data/storage/packed.py).

Written beside OUT and renamed when complete; re-running a command that was stopped resumes it.
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
from bench.data.storage.files import readable
from bench.data.storage.index import Defect
from bench.data.storage.open_store import open_store
from bench.data.storage.packed import DATA, FORMAT, camera_key, encode_cameras, encode_view, view_key
from bench.data.storage.parallel import each_scene
from bench.data.storage.store import FORMS, PACKED, Broken, Store

UNFINISHED, JOB, LOCK = ".unfinished-", "packing.json", "packing.lock"
KEY_BYTES = 511  # that LMDB allows
FIRST_MAP_SIZE = 2**30  # bytes of addresses; doubled when they are used up

Encoded = dict[bytes, bytes]


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
    """Pack a data set.

    Args:
        root, views, form: `open_store`'s.
        out: an empty or new folder.
        size: image side in pixels.
        workers: processes; all cores by default.
        only: these scenes.

    Returns the broken scenes, which are left out. Raises UserError.
    """
    if size < 1:
        raise UserError(f"--size {size}: at least 1 pixel")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} already exists: remove it, or pass another --out")
    started = time.monotonic()
    store = open_store(root, True, views, form)
    opener = partial(open_store, root, False, views, form)
    names = sorted(only or store.scenes())
    of = {"root": readable(root.resolve()), "views": views, "form": form}
    job = of | {"size": size, "only": sorted(only) if only else None}
    target = out.resolve()
    with _claimed(target.with_name(f"{UNFINISHED}{target.name}"), job) as unfinished:
        environment = lmdb.open(str(unfinished), map_size=FIRST_MAP_SIZE, lock=False)
        try:
            packed, defects = _fill(environment, store, names, opener, size, workers or cores(), console)
            environment.sync(True)
        except lmdb.Error as error:
            raise UserError(f"{unfinished}: {error}: free space and re-run; existing outputs are intact") from error
        finally:
            environment.close()
        if not packed:
            raise UserError(f"{readable(root)}: all {len(names)} scenes are broken\n{broken.table(defects)}")
        content = {"format": FORMAT, "size": size, "count": len(packed), "source": readable(root.resolve().name)}
        write_json(unfinished / PACKED, content | {"scenes": packed, "broken": broken.rows(defects)})
        for name in (JOB, LOCK):
            (unfinished / name).unlink()
        unfinished.rename(target)
    _print_summary(out, packed, defects, time.monotonic() - started, console)
    return defects


def _fill(
    environment: lmdb.Environment,
    store: Store,
    names: Sequence[str],
    opener: Callable[[], Store],
    size: int,
    workers: int,
    console: Console,
) -> tuple[list[str], dict[str, Broken]]:
    """Pack the scenes that are missing: all that are packed now, and the broken ones."""
    known = store.broken()
    defects = {name: known[name] for name in names if name in known}
    for name in names:
        if len(view_key(name, 0)) > KEY_BYTES:
            defects[name] = Broken("bad name", name, f"longer than the {KEY_BYTES - 6} bytes that can be packed")
    packed = {name for name in names if name not in defects and _is_packed(environment, name)}
    missing = [name for name in names if name not in defects and name not in packed]
    console.print(f"{len(missing)} of {len(names)} scenes to pack at {size} px", soft_wrap=True)
    work = partial(encode, size)
    for name, result in each_scene(work, opener, missing, min(workers, len(missing) or 1), console, "packing"):
        if isinstance(result, tuple):
            defects[name] = Broken(*result)
        else:
            _put(environment, result)
            packed.add(name)
    return sorted(packed), dict(sorted(defects.items()))


def encode(size: int, store: Store, scene: str) -> Encoded | Defect:
    """Keys and values of one scene at a size, or its defect."""
    try:
        data = store.read(scene, range(len(store.cameras(scene)[0])), size)
    except Broken as defect:
        return defect.kind, defect.path, defect.detail
    except UserError as error:  # its pictures are smaller
        return "wrong size", scene, str(error)
    cameras = {camera_key(scene): encode_cameras(data.camera_to_world, data.field_of_view)}
    views = zip(data.images, data.depth, data.normals, strict=True)
    return cameras | {view_key(scene, i): encode_view(*view) for i, view in enumerate(views)}


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
        recorded = {key: value for key, value in read_json(folder / JOB).items() if key in job}
        if recorded != job:
            raise UserError(
                f"{folder} holds an incomplete pack with other settings, {recorded}: remove it, or pass another --out"
            )
        yield folder


def _is_packed(environment: lmdb.Environment, scene: str) -> bool:
    with environment.begin() as transaction:
        return transaction.get(camera_key(scene)) is not None


def _put(environment: lmdb.Environment, values: Encoded) -> None:
    """A scene, completely or not at all."""
    try:
        with environment.begin(write=True) as transaction:
            for key, value in values.items():
                transaction.put(key, value)
    except lmdb.MapFullError:
        environment.set_mapsize(2 * environment.info()["map_size"])
        _put(environment, values)


def _print_summary(
    out: Path, packed: Sequence[str], defects: Mapping[str, Broken], seconds: float, console: Console
) -> None:
    size = decimal((out / DATA).stat().st_size)
    text = f"{out}: {len(packed)} scenes, {size}, {seconds:.0f} s; {len(defects)} broken and left out"
    console.print(text, markup=False, soft_wrap=True)
    if defects:
        console.print(broken.table(defects), markup=False, soft_wrap=True)
