"""JSON files with a schema version, and files of JSON lines. No torch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from bench.common.errors import UserError
from bench.common.files import atomic_write_text

SCHEMA_VERSION = 1


def append_lines(path: Path, *records: Mapping[str, object]) -> None:
    """Append JSON lines; an incomplete last line, left by a crash, is terminated first."""
    with path.open("ab+") as file:
        separator = b"\n" if _last_line_incomplete(file) else b""
        file.write(separator + b"".join(json.dumps(record).encode() + b"\n" for record in records))


def _last_line_incomplete(file: IO[bytes]) -> bool:
    if file.seek(0, os.SEEK_END) == 0:
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


def write_json(path: Path, content: Mapping[str, Any], check: Callable[[], None] = lambda: None) -> None:
    """Atomic; stamped with the schema version."""
    text = json.dumps({"schema_version": SCHEMA_VERSION, **content}, indent=1, ensure_ascii=False) + "\n"
    atomic_write_text(path, text, check)


def read_json(path: Path) -> dict[str, Any]:
    """Raises FileNotFoundError, and UserError for a file that is damaged or written by a newer version."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it and re-run") from error
    if (version := content.get("schema_version", 1)) > SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {version}, this EAD-Bench reads up to {SCHEMA_VERSION}: use a newer EAD-Bench"
        )
    return content


def read_lines(path: Path) -> list[dict[str, Any]]:
    """A JSON-lines file; lines that a crash left incomplete are skipped."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records
