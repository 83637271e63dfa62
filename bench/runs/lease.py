"""Exclusive access to a run folder: one holder at a time, with a fencing number, on plain files that also work on NFS.

`lease/` in the run folder holds one file per claim, `<number>.json`; the highest number holds the run. Claiming n + 1
is one `link`, at which exactly one process succeeds. The holder touches its file every few seconds. A claim may be
followed by the next number when its holder is dead on this host, or when it has had no heartbeat for long. Before a
write becomes visible `check` refuses every process whose claim is no longer the highest.

Clocks may jump: an old heartbeat counts only once this process has seen none for CONFIRM_S of its monotonic clock.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Self

from bench.common.json_files import append_lines, read_json, write_json
from bench.common.process import ProcessIdentity
from bench.runs.writer import PlainWriter

HEARTBEAT_S = 5.0
CHECK_EVERY_S = 10.0  # between lines of metrics
LEASE_TIMEOUT_S = 90.0  # without a heartbeat, of a holder on another host; NFS may cache attributes for 60 s
CONFIRM_S = 3 * HEARTBEAT_S  # without a heartbeat, by the monotonic clock of the process that wants the lease


class LeaseHeld(Exception):
    """Another process holds the run; the text names it."""


class LeaseLost(Exception):
    """Another process has taken over the run; this one may write nothing more."""


@dataclass(frozen=True)
class Holder(ProcessIdentity):
    """The process that made a claim."""

    job: str = ""  # SLURM's job id and restart count
    token: str = field(default_factory=lambda: uuid.uuid4().hex)  # of the claim
    released: bool = False

    @classmethod
    def of_this_process(cls) -> Self:
        return replace(cls.of(os.getpid()), job=_job())

    def __str__(self) -> str:
        return super().__str__() + (f" (job {self.job})" if self.job else "")

    @property
    def superseded(self) -> bool:
        """Whether SLURM has restarted this process's job after losing contact with the holder, which may still run."""
        (job, _, restart), (own_job, _, own_restart) = (name.partition(".") for name in (self.job, _job()))
        return bool(job) and job == own_job and int(restart or 0) < int(own_restart or 0)


@dataclass(frozen=True)
class Claim:
    """A file of `lease/`."""

    number: int
    path: Path
    holder: Holder

    @property
    def free(self) -> bool:
        """Whether the next number may be claimed: released, or its holder is dead, superseded or without heartbeat."""
        if self.holder.released or self.holder.superseded:
            return True
        if self.holder.on_this_host:
            return not self.holder.is_running
        return self.expired and _unchanged_s(self.path) > CONFIRM_S

    @property
    def expired(self) -> bool:
        """Whether a holder elsewhere had its last heartbeat too long ago, or (a clock was set back) in the future."""
        if self.holder.on_this_host:
            return False
        return not -HEARTBEAT_S <= heartbeat_age_s(self.path) <= LEASE_TIMEOUT_S


def current_claim(folder: Path) -> Claim | None:
    """The highest claim on a run folder, if there is any."""
    for path in sorted((folder / "lease").glob("[0-9]*.json"), reverse=True):
        try:
            content = read_json(path)
        except FileNotFoundError:  # a higher one has just replaced it
            return current_claim(folder)
        return Claim(int(path.stem), path, Holder.from_dict(content))
    return None


def active_holder(folder: Path) -> Holder | None:
    """The process that holds the run now."""
    claim = current_claim(folder)
    return None if claim is None or claim.free else claim.holder


class Lease:
    """A claim that this process holds; a thread sends heartbeats inside the `with` block.

    Raises LeaseHeld when another process holds the run. Waits CONFIRM_S where that one's heartbeat has expired.
    """

    def __init__(self, folder: Path) -> None:
        before = current_claim(folder)
        while before and not before.free:
            if not before.expired:
                raise LeaseHeld(str(before.holder))
            time.sleep(HEARTBEAT_S / 10)
            before = current_claim(folder)
        self.holder = Holder.of_this_process()
        self.number = before.number + 1 if before else 1
        self.path = folder / "lease" / f"{self.number:08d}.json"
        self._released = threading.Event()
        self._claim()

    def _claim(self) -> None:
        draft = self.path.with_name(f".{self.holder.token}")
        write_json(draft, asdict(self.holder))
        try:
            os.link(draft, self.path)
            self.check()  # a slower process may link a number that was free, but is below the current one by now
        except (FileExistsError, LeaseLost):
            raise LeaseHeld("a process that claimed it at the same moment") from None
        finally:
            draft.unlink()
        for path in self.path.parent.glob("[0-9]*.json"):
            if int(path.stem) < self.number:
                path.unlink(missing_ok=True)

    def check(self) -> None:
        """Raises LeaseLost unless this claim is still the highest."""
        try:
            os.utime(self.path)  # reaches the file server, whereas a directory listing may be cached
            higher = any(int(path.stem) > self.number for path in self.path.parent.glob("[0-9]*.json"))
        except FileNotFoundError:
            higher = True
        if higher:
            raise LeaseLost(f"lease {self.number} of {self.path.parent.parent} was taken over")

    def release(self) -> None:
        """Release the run; does nothing if the claim was taken over."""
        self._released.set()
        try:
            self.check()
        except LeaseLost:
            return
        write_json(self.path, asdict(self.holder) | {"released": True})

    def __enter__(self) -> Self:
        threading.Thread(target=self._heartbeat, name="lease", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _heartbeat(self) -> None:
        while not self._released.wait(HEARTBEAT_S):
            with contextlib.suppress(OSError):  # the next write raises
                os.utime(self.path)


class LeasedWriter(PlainWriter):
    """Writes to a run folder as long as the lease is held. Raises LeaseLost afterwards.

    Every commit and removal checks the lease, which costs a file server two requests; metrics lines, of which many
    runs write several per second, check it only if the last check is `check_every_s` old by `clock` (seconds).
    """

    def __init__(
        self,
        folder: Path,
        lease: Lease,
        check_every_s: float = CHECK_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(folder)
        self.lease, self.check_every_s, self.clock = lease, check_every_s, clock
        self.checked = float("-inf")

    def check(self) -> None:
        now = self.clock()
        self.lease.check()
        self.checked = now

    def append(self, name: str, *records: Mapping[str, object]) -> None:
        if self.clock() - self.checked >= self.check_every_s:
            self.check()
        append_lines(self.folder / name, *records)


def _job() -> str:
    """SLURM's job id and, after a restart, the restart count: "123.1"."""
    return ".".join(filter(None, (os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_RESTART_COUNT"))))


def heartbeat_age_s(path: Path) -> float:
    """Seconds since a claim's last heartbeat, by the file server's clock: hosts' clocks may differ."""
    probe = path.with_name(f".now-{uuid.uuid4().hex}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


_last_heartbeats: dict[Path, tuple[int, float]] = {}  # claim → (mtime in ns, monotonic time when it was first seen)


def _unchanged_s(path: Path) -> float:
    """For how long this process has seen a claim without a new heartbeat, by its monotonic clock."""
    try:
        with path.open("rb") as file:  # opening makes NFS ask for the current attributes
            heartbeat = os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return 0.0
    if _last_heartbeats.get(path, (None, 0.0))[0] != heartbeat:
        _last_heartbeats[path] = heartbeat, time.monotonic()
    return time.monotonic() - _last_heartbeats[path][1]
