"""Who works on a run: one holder at a time, known by a number that only grows, on plain files that also behave on NFS.

`lease/` in the run folder holds one file a claim, `<number>.json`; the highest number holds the run. Claiming n + 1 is
one `link`, which exactly one process wins. The holder touches its file every few seconds; a claim whose holder is dead
on this host, or that has not been touched for long, may be followed by the next number. Before a write becomes
visible `check` refuses whoever is no longer the highest.
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

from bench.common.json_files import append_line, read_json, write_json
from bench.common.process import ProcessIdentity
from bench.runs.writer import PlainWriter

HEARTBEAT_S = 5.0
CHECK_EVERY_S = 10.0  # between lines of metrics
LEASE_TIMEOUT_S = 90.0  # without a touch, where the holder cannot be seen; a page of NFS attributes may be 60 s old


class LeaseHeld(Exception):
    """Somebody else works on the run; the text says who."""


class LeaseLost(Exception):
    """This process lost its lease; what it writes no longer counts."""


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
        """Whether SLURM started this process's job again after giving that holder up, which may live on, cut off."""
        (job, _, restart), (mine, _, count) = (who.partition(".") for who in (self.job, _job()))
        return bool(job) and job == mine and int(restart or 0) < int(count or 0)


@dataclass(frozen=True)
class Claim:
    """A file of `lease/`."""

    number: int
    path: Path
    holder: Holder

    @property
    def free(self) -> bool:
        """Whether the next number may be claimed: given back, or its holder is dead, silent or superseded."""
        if self.holder.released or self.holder.superseded:
            return True
        if self.holder.on_this_host:
            return not self.holder.alive
        return heartbeat_age_s(self.path) > LEASE_TIMEOUT_S


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
    """Who works on the run now."""
    claim = current_claim(folder)
    return None if claim is None or claim.free else claim.holder


class Lease:
    """A claim that this process holds, kept alive by a thread while in its `with` block.

    Raises Held when another one holds the run.
    """

    def __init__(self, folder: Path) -> None:
        before = current_claim(folder)
        if before and not before.free:
            raise LeaseHeld(str(before.holder))
        self.holder = Holder.of_this_process()
        self.number = before.number + 1 if before else 1
        self.path = folder / "lease" / f"{self.number:08d}.json"
        self._over = threading.Event()
        self._claim()

    def _claim(self) -> None:
        draft = self.path.with_name(f".{self.holder.token}")
        write_json(draft, asdict(self.holder))
        try:
            os.link(draft, self.path)
            self.check()  # of two who found the same claim free, the slower may come after the faster's successor
        except (FileExistsError, LeaseLost):
            raise LeaseHeld("a process that claimed it at the same moment") from None
        finally:
            draft.unlink()
        for path in self.path.parent.glob("[0-9]*.json"):
            if int(path.stem) < self.number:
                path.unlink(missing_ok=True)

    def check(self) -> None:
        """Raises Stale unless this claim is still the highest."""
        try:
            os.utime(self.path)  # asks the file server, where a listing may be remembered
            higher = any(int(path.stem) > self.number for path in self.path.parent.glob("[0-9]*.json"))
        except FileNotFoundError:
            higher = True
        if higher:
            raise LeaseLost(f"lease {self.number} of {self.path.parent.parent} was taken over")

    def release(self) -> None:
        """Give the run back; nothing happens to a claim that was taken over."""
        self._over.set()
        try:
            self.check()
        except LeaseLost:
            return
        write_json(self.path, asdict(self.holder) | {"released": True})

    def __enter__(self) -> Self:
        threading.Thread(target=self._beat, name="lease", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT_S):
            with contextlib.suppress(OSError):  # the next write finds out
                os.utime(self.path)


class LeasedWriter(PlainWriter):
    """Writes to a run folder as long as the lease is held. Raises Stale afterwards.

    Every commit and removal checks the lease, which costs a file server two requests; lines of metrics, of which many
    runs write several a second, check it only if the last check is `check_every_s` old by `clock` (seconds).
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

    def append(self, name: str, record: Mapping[str, object]) -> None:
        if self.clock() - self.checked >= self.check_every_s:
            self.check()
        append_line(self.folder / name, record)


def _job() -> str:
    """SLURM's job id and, once it was started again, the restart count: "123.1"."""
    return ".".join(filter(None, (os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_RESTART_COUNT"))))


def heartbeat_age_s(path: Path) -> float:
    """Since a claim was last touched, by the file server's clock: hosts' clocks may differ."""
    probe = path.with_name(f".now-{uuid.uuid4().hex}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
    finally:
        probe.unlink(missing_ok=True)
