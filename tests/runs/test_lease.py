"""One holder at a time, on plain files, with real processes that are really killed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from bench.common.json_files import write_json
from bench.runs import lease
from bench.runs.attempts import finish_attempt
from bench.runs.folder import Status
from bench.runs.lease import (
    LEASE_TIMEOUT_S,
    Holder,
    Lease,
    LeasedWriter,
    LeaseHeld,
    LeaseLost,
    active_holder,
    current_claim,
)

HOLDER = """
import pathlib, sys, time
from bench.runs.lease import Lease
with Lease(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
RACER = """
import pathlib, sys, time
from bench.runs.lease import LeaseHeld, Lease
start = float(sys.argv[2])
time.sleep(max(0, start - time.time()))
try:
    Lease(pathlib.Path(sys.argv[1]))
    print("won")
    time.sleep(2)
except LeaseHeld:
    print("lost")
"""
SLOW = """
import os, pathlib, sys
from bench.runs.lease import Lease, LeaseHeld
def pause(event, arguments):
    if event == "os.link":
        print("about to claim 2", flush=True)
        sys.stdin.readline()
sys.addaudithook(pause)
try:
    Lease(pathlib.Path(sys.argv[1]))
    print("claimed", flush=True)
except LeaseHeld:
    print("held", flush=True)
"""


@contextmanager
def another(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lease."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, folder], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def text(content: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(content)

    return write


def elsewhere(folder: Path, number: int, silent_s: float) -> None:
    """A claim of a process that cannot be seen from here, last touched a while ago."""
    path = folder / "lease" / f"{number:08d}.json"
    write_json(path, asdict(replace(Holder.of_this_process(), host="node17", space="another boot", pid=1)))
    os.utime(path, (time.time() - silent_s,) * 2)


def test_numbers_only_grow(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        with Lease(tmp_path) as held:
            assert held.number == number and active_holder(tmp_path) == held.holder
            with pytest.raises(LeaseHeld, match=str(os.getpid())):
                Lease(tmp_path)
        assert active_holder(tmp_path) is None
    assert [path.name for path in (tmp_path / "lease").iterdir()] == ["00000003.json"]


def test_a_killed_holder_is_noticed_at_once(tmp_path: Path) -> None:
    with another(tmp_path) as process:
        with pytest.raises(LeaseHeld, match=str(process.pid)):
            Lease(tmp_path)
        process.kill()
        while process.poll() is None:
            time.sleep(0.01)
        assert Lease(tmp_path).number == 2


def test_a_dead_process_that_nobody_has_collected_holds_nothing(tmp_path: Path) -> None:
    with another(tmp_path) as process:
        process.kill()
        deadline = time.monotonic() + 5
        while active_holder(tmp_path) and time.monotonic() < deadline:  # a zombie: never waited for
            time.sleep(0.01)
        assert active_holder(tmp_path) is None


def test_a_pid_that_came_again_holds_nothing(tmp_path: Path) -> None:
    write_json(tmp_path / "lease" / "00000001.json", asdict(replace(Holder.of_this_process(), started="1")))
    assert active_holder(tmp_path) is None


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """An old heartbeat is confirmed within 0.3 s."""
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(lease, "CONFIRM_S", 0.3)


def test_what_cannot_be_seen_holds_until_it_has_been_silent_for_long(tmp_path: Path, soon: None) -> None:
    elsewhere(tmp_path, 4, LEASE_TIMEOUT_S - 10)
    with pytest.raises(LeaseHeld, match="process 1 on node17"):
        Lease(tmp_path)
    elsewhere(tmp_path, 4, LEASE_TIMEOUT_S + 10)
    assert active_holder(tmp_path) is not None  # not yet confirmed
    assert Lease(tmp_path).number == 5


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
def test_a_clock_that_jumps_neither_loses_a_lease_nor_keeps_a_dead_one(
    jump_s: float, tmp_path: Path, soon: None
) -> None:
    """The file server's clock is set forward or back by an hour between two heartbeats of a holder elsewhere."""
    elsewhere(tmp_path, 4, jump_s)
    path, stopped = tmp_path / "lease" / "00000004.json", threading.Event()

    def heartbeats() -> None:
        while not stopped.wait(0.1):
            os.utime(path)

    holder = threading.Thread(target=heartbeats)
    holder.start()
    try:
        with pytest.raises(LeaseHeld, match="process 1 on node17"):
            Lease(tmp_path)
    finally:
        stopped.set()
        holder.join()
    elsewhere(tmp_path, 4, jump_s)
    assert Lease(tmp_path).number == 5


def test_who_was_succeeded_writes_nothing_more(tmp_path: Path) -> None:
    held = Lease(tmp_path)
    writer = LeasedWriter(tmp_path, held)
    writer.commit("result", text("mine"))
    writer.append("metrics.jsonl", {"step": 1})
    elsewhere(tmp_path, 2, 0)
    with pytest.raises(LeaseLost):
        writer.commit("result", text("stale"))
    with pytest.raises(LeaseLost):
        writer.remove("result")
    with pytest.raises(LeaseLost):
        finish_attempt(writer, Status("done"))
    assert (tmp_path / "result").read_text() == "mine" and (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'
    held.release()
    assert (claim := current_claim(tmp_path)) and claim.number == 2 and not claim.holder.released


def test_lines_of_metrics_ask_the_file_server_every_ten_seconds(tmp_path: Path) -> None:
    """A check touches the claim; a commit checks always."""
    now, held = 1000.0, Lease(tmp_path)
    writer = LeasedWriter(tmp_path, held, clock=lambda: now)
    checks = []
    for i in range(100):  # 4 lines a second
        now = 1000.0 + i / 4
        os.utime(held.path, (0, 0))
        writer.append("metrics.jsonl", {"step": i})
        if held.path.stat().st_mtime:
            checks.append(i)
    assert checks == [0, 40, 80]
    elsewhere(tmp_path, 2, 0)
    writer.append("metrics.jsonl", {"step": 100})  # harmless: a step's losses are the same whoever computes them
    with pytest.raises(LeaseLost):
        writer.commit("result", text("stale"))
    now += 10
    with pytest.raises(LeaseLost):
        writer.append("metrics.jsonl", {"step": 101})
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 101 and not (tmp_path / "result").exists()


def test_a_claim_whose_file_is_gone_is_stale(tmp_path: Path) -> None:
    """What a file server answers to a holder whose successor has swept up, before a listing shows the successor."""
    held = Lease(tmp_path)
    held.path.unlink()
    with pytest.raises(LeaseLost):
        held.check()


def test_a_slow_claim_after_a_faster_ones_successor_is_refused(tmp_path: Path) -> None:
    """A process stops between reading the claims and linking its own; meanwhile the lease changes hands twice."""
    with Lease(tmp_path):
        pass
    command = [sys.executable, "-c", SLOW, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as slow:
        assert slow.stdin and slow.stdout and slow.stdout.readline() == "about to claim 2\n"
        with Lease(tmp_path):
            pass
        with Lease(tmp_path) as third:  # number 2 has been removed: its name is free
            slow.stdin.write("go on\n")
            slow.stdin.flush()
            assert slow.stdout.readline() == "held\n"
            third.check()


def test_a_holder_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.02)
    with Lease(tmp_path) as held:
        os.utime(held.path, (0, 0))
        deadline = time.monotonic() + 5
        while held.path.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert held.path.stat().st_mtime > 0


def test_of_many_at_once_one_wins(tmp_path: Path) -> None:
    start = str(time.time() + 1.0)
    command = [sys.executable, "-c", RACER, str(tmp_path), start]
    with ThreadPoolExecutor(6) as pool:
        run = lambda _: subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: E731
        assert sorted(pool.map(run, range(6))) == ["lost"] * 5 + ["won"]
