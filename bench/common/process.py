"""Identity of a process: host, boot and pid namespace, pid, start time. A pid alone may have been reused."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True)
class ProcessIdentity:
    """A process, distinguished from a later one with the same pid. `dataclasses.asdict` makes it ready for JSON."""

    host: str
    space: str  # boot id and pid namespace: where the pid means something; empty where there is no /proc
    pid: int
    started: str  # in clock ticks since boot; empty where there is no /proc, or the process has ended

    @classmethod
    def of(cls, pid: int) -> Self:
        """The process that has this pid now, on this host."""
        host = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
        return cls(host, _pid_namespace(), pid, _start_time(pid) or "")

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`; other keys are ignored."""
        return cls(**{f.name: content[f.name] for f in fields(cls)})

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def on_this_host(self) -> bool:
        """Whether it can be seen from here whether the process is alive: same boot, same pid namespace."""
        return bool(self.started) and self.space == _pid_namespace()

    @property
    def is_running(self) -> bool:
        """Of a process on this host: whether it runs. False for any other."""
        return self.on_this_host and _start_time(self.pid) == self.started

    def send_signal(self, number: signal.Signals) -> bool:
        """False if the process has ended, or cannot be seen from here."""
        if not self.is_running:
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True


@cache
def _pid_namespace() -> str:
    """Boot id and pid namespace of this process; empty where there is no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _start_time(pid: int) -> str | None:
    """In clock ticks since boot; None if there is no such process or it is a zombie."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if words[0] in "ZX" else words[19]
