"""Who works on a run: a lease with a fencing number. Every write of a checkpoint or result checks it first.

`leases/<number>.json` in the run's folder; the highest number owns. A number is taken by an exclusive link, which is
atomic on local disks and NFS, and is never used twice. The holder touches its file; one untouched for STALE seconds, or
whose process is gone from this host, may be succeeded. The loser of a succession finds the higher number at its next
write and stops: of two live copies of a run only one can write.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.record import PlainWriter

BEAT, STALE = 5.0, 60.0  # seconds


class Fenced(Exception):
    """Another process has taken over this run; nothing more may be written."""


@dataclass(frozen=True)
class Holder:
    """Who took a number. `started` is the process's start in clock ticks since boot, since pids come again."""

    number: int
    host: str
    pid: int
    started: str
    job: str | None = None
    released: bool = False


def holder(folder: Path) -> Holder | None:
    """Who holds the run's lease now; None when it is free."""
    path = _newest(folder)
    if path is None:
        return None
    found = _read(path)
    return found if _alive(found, path) else None


def acquire(folder: Path) -> Lease | None:
    """Take the lease, or None when somebody alive holds it or was faster."""
    path = _newest(folder)
    if path is not None and _alive(_read(path), path):
        return None
    number = (int(path.stem) if path else 0) + 1
    me = Holder(number, socket.gethostname(), os.getpid(), _process_start(os.getpid()), os.environ.get("SLURM_JOB_ID"))
    target = _file(folder, number)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{number}-{me.host}-{me.pid}")
    temporary.write_text(json.dumps(asdict(me)))
    try:
        os.link(temporary, target)
    except FileExistsError:
        return None
    finally:
        temporary.unlink()
    return Lease(folder, me)


class Lease:
    """A taken number; beats in a thread until released."""

    def __init__(self, folder: Path, me: Holder) -> None:
        self.folder, self.me = folder, me
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self.thread.start()

    def check(self) -> None:
        """Raises Fenced when a higher number has been taken."""
        newest = _newest(self.folder)
        if newest is None or int(newest.stem) != self.me.number:
            raise Fenced(f"{self.folder.name}: lease {self.me.number} was succeeded by {newest.stem if newest else 0}")

    def release(self) -> None:
        """Let others take the run at once."""
        self.done.set()
        self.thread.join()
        path = _file(self.folder, self.me.number)
        temporary = path.with_name(f".{self.me.number}-released")
        temporary.write_text(json.dumps(asdict(self.me) | {"released": True}))
        temporary.replace(path)

    def _beat(self) -> None:
        while not self.done.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(_file(self.folder, self.me.number))


class LeasedWriter(PlainWriter):
    """Writes into a run's folder only while the lease is ours. Raises Fenced."""

    def __init__(self, lease: Lease) -> None:
        super().__init__(lease.folder)
        self.lease = lease

    def check(self) -> None:
        self.lease.check()


@contextlib.contextmanager
def held(folder: Path) -> Iterator[Lease | None]:
    """`acquire`, released at the end."""
    lease = acquire(folder)
    try:
        yield lease
    finally:
        if lease is not None:
            lease.release()


def _file(folder: Path, number: int) -> Path:
    return folder / "leases" / f"{number:08d}.json"


def _newest(folder: Path) -> Path | None:
    return max((folder / "leases").glob("[0-9]*.json"), default=None)


def _read(path: Path) -> Holder:
    content: Mapping[str, object] = json.loads(path.read_text())
    return Holder(**content)  # type: ignore[arg-type]


def _alive(found: Holder, path: Path) -> bool:
    if found.released:
        return False
    if found.host == socket.gethostname():
        return _process_start(found.pid) == found.started
    return time.time() - path.stat().st_mtime < STALE


def _process_start(pid: int) -> str:
    """Field 22 of /proc/<pid>/stat; "" for a process that is gone or a zombie, or without /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
