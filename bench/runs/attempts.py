"""attempts.jsonl of a run folder: who worked on the run, from when to when, and how each attempt ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from bench.common.json_files import read_lines
from bench.runs.folder import RunFolder, Status
from bench.runs.lease import LeasedWriter
from bench.runs.states import State

FILE = "attempts.jsonl"


def read_attempts(folder: RunFolder) -> list[dict[str, Any]]:
    """One an attempt, in order: number, host, job, started; and state, phase, message, ended once that is known."""
    found: dict[int, dict[str, Any]] = {}
    for record in read_lines(folder.path / FILE):
        found.setdefault(record["number"], {}).update(record)
    return [found[number] for number in sorted(found)]


def begin_attempt(writer: LeasedWriter, vanished: Callable[[str], tuple[State, str]]) -> None:
    """Note this one; the one before, if it ended without a word, gets the end that `vanished` tells of its host."""
    before = read_attempts(RunFolder(writer.folder))[-1:]
    for last in before:
        if "ended" not in last:
            state, message = vanished(last.get("host", ""))
            status = Status(state, RunFolder(writer.folder).status().phase, message)
            _append(writer, {"number": last["number"], **_ending(status)})
    holder = writer.lease.holder
    told = {"host": holder.host, "pid": holder.pid, "job": holder.job}
    _append(writer, {"number": writer.lease.number, **told, "started": _now()})


def finish_attempt(writer: LeasedWriter, status: Status, number: int | None = None) -> None:
    """How this attempt, or an earlier one, ended."""
    _append(writer, {"number": number or writer.lease.number, **_ending(status)})


def _append(writer: LeasedWriter, record: dict[str, Any]) -> None:
    """Unlike a line of metrics, only with a lease that is held now."""
    writer.check()
    writer.append(FILE, record)


def _ending(status: Status) -> dict[str, Any]:
    return {"ended": _now()} | {key: value for key, value in asdict(status).items() if key != "trace"}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
