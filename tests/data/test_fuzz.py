"""Mutated files of every format end as reported broken items, within bounds, and execute nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from support.fuzz import Outcome, assert_reported, mutate, run_reader

from bench.common.errors import UserError


def misbehave(path: Path) -> None:
    """What the harness must notice, by the content of the file."""
    match path.read_bytes():
        case b"hang":
            time.sleep(60)
        case b"crash":
            os.abort()
        case b"memory":
            bytearray(2**32)
        case b"execute":
            os.system("true")
        case b"report":
            raise UserError(f"{path}: broken")
        case b"raise":
            raise KeyError("x")


def test_the_harness_notices_what_it_is_for(tmp_path: Path) -> None:
    contents = [b"fine", b"hang", b"crash", b"memory", b"execute", b"report", b"raise", b"fine"]
    outcomes = run_reader(misbehave, contents, tmp_path / "file", seconds=2)
    kinds = ["read", "timeout", "crash", "error", "error", "reported", "error", "read"]
    assert [outcome.kind for outcome in outcomes] == kinds
    assert "MemoryError" in outcomes[3].text and "os.system" in outcomes[4].text
    assert_reported([outcomes[0], outcomes[5]], "file")
    with pytest.raises(AssertionError, match="1 of 1"):
        assert_reported([Outcome(0, "error", "KeyError: 'x'")])
    assert mutate(b"abc" * 100, 5) == mutate(b"abc" * 100, 5) != mutate(b"abc" * 100, 6)
