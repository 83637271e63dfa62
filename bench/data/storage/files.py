"""Files of foreign data: read within bounds; whatever a decoder raises becomes a Broken that names the file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.data.storage.store import Broken, Kind

MAX_BYTES = 2**30  # of a file that is read as a whole


def read_file(path: Path) -> bytes:
    """Raises Broken for a file that is missing, cannot be read, or is larger than MAX_BYTES."""
    try:
        if not path.is_file():
            raise Broken("missing file", readable(path), "there is no such file")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise Broken("damaged", readable(path), f"{size} bytes; at most {MAX_BYTES} are read")
        return path.read_bytes()
    except OSError as error:
        raise Broken("unreadable", readable(path), error.strerror or str(error)) from error


def read_json_object(content: bytes, path: str) -> dict[str, Any]:
    """A foreign file's JSON object. Raises Broken."""
    if content.lstrip()[:1] == b"<":
        check_magic(content, b"{", path)
    with reported(path, "truncated" if not content.rstrip().endswith(b"}") else "damaged"):
        value = json.loads(content)
    if not isinstance(value, dict):
        raise Broken("damaged", path, f"a JSON {type(value).__name__}, not an object")
    return value


@contextmanager
def reported(path: str | Path, kind: Kind = "damaged") -> Iterator[None]:
    """Turn what a decoder raises for a damaged file, whatever its type, into Broken. Lack of memory is none of that."""
    try:
        yield
    except (Broken, MemoryError):
        raise
    except Exception as error:  # decoders raise many kinds
        raise Broken(kind, path, " ".join(f"{type(error).__name__}: {error}".split())[:300]) from error


def check_magic(content: bytes, magic: bytes, path: str, offset: int = 0) -> None:
    """Raise Broken for content that does not begin with `magic`; failed downloads leave an XML body."""
    if content[offset : offset + len(magic)] == magic:
        return
    if content.lstrip()[:1] == b"<":
        start = content[:60].decode("utf-8", "replace").strip()
        raise Broken("failed download", path, f"{len(content)} bytes of markup: {start}")
    if len(content) < offset + len(magic):
        raise Broken("truncated", path, f"only {len(content)} bytes")
    raise Broken("wrong magic", path, f"begins with {content[offset : offset + len(magic)]!r}, not {magic!r}")


def readable(path: str | Path) -> str:
    """A path as text that can be printed and encoded: bytes that are not UTF-8 as \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def is_utf8(name: str) -> bool:
    """Whether the bytes of a file's name are UTF-8."""
    return readable(name) == name
