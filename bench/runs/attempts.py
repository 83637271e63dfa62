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
    """One record per attempt, in order: number, host, job, started; once known, state, phase, message, ended."""
    attempts: dict[int, dict[str, Any]] = {}
    for record in read_lines(folder.path / FILE):
        attempts.setdefault(record["number"], {}).update(record)
    return [attempts[number] for number in sorted(attempts)]


def begin_attempt(writer: LeasedWriter, classify_missing_exit: Callable[[str], tuple[State, str]]) -> None:
    """Record the start of this attempt; and the end of the previous one, if it recorded none.

    `classify_missing_exit`: host → (state, message) of an attempt that ended without recording a status.
    """
    for last in read_attempts(RunFolder(writer.folder))[-1:]:
        if "ended" not in last:
            state, message = classify_missing_exit(last.get("host", ""))
            status = Status(state, RunFolder(writer.folder).status().phase, message)
            _append(writer, {"number": last["number"], **_end_record(status)})
    holder = writer.lease.holder
    process = {"host": holder.host, "pid": holder.pid, "job": holder.job}
    _append(writer, {"number": writer.lease.number, **process, "started": _now()})


def finish_attempt(writer: LeasedWriter, status: Status, number: int | None = None) -> None:
    """Record how this attempt, or an earlier one, ended."""
    _append(writer, {"number": number or writer.lease.number, **_end_record(status)})


def _append(writer: LeasedWriter, record: dict[str, Any]) -> None:
    """Unlike metrics, with a check of the lease for every line."""
    writer.check()
    writer.append(FILE, record)


def _end_record(status: Status) -> dict[str, Any]:
    return {"ended": _now()} | {key: value for key, value in asdict(status).items() if key != "trace"}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
