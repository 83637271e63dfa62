"""The processes that run a sweep on this machine, and the runs that wait for them. No torch.

<sweep>/controllers/<host>-<pid>.json exists while a command works on the sweep; one whose process has ended is ignored.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.common.json_files import read_json, write_json
from bench.common.process import ProcessIdentity

FOLDER = "controllers"


@dataclass(frozen=True)
class Controller:
    """A live command: its process, the ids of the runs it was asked for, and when it started (epoch seconds)."""

    process: ProcessIdentity
    runs: frozenset[str]
    since: float


@contextmanager
def controlling(sweep: Path, runs: Sequence[str]) -> Iterator[None]:
    """Record this process as a controller of these runs while the context is open."""
    process = ProcessIdentity.of(os.getpid())
    path = sweep / FOLDER / f"{process.host}-{process.pid}.json"
    write_json(path, {"process": asdict(process), "runs": list(runs)})
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def live_controllers(sweep: Path) -> list[Controller]:
    """Those whose process runs on this host."""
    controllers = []
    for path in sorted((sweep / FOLDER).glob("*.json")):
        try:
            content, since = read_json(path), path.stat().st_mtime
        except FileNotFoundError:  # it has just ended
            continue
        process = ProcessIdentity.from_dict(content["process"])
        if process.is_running:
            controllers.append(Controller(process, frozenset(content["runs"]), since))
    return controllers
