"""Mutated files for readers of foreign data: each must be read or end as a reported error, within bounds.

`mutate` makes number n of a file's mutations, always the same. `run_reader` reads mutations in a process of its own, in
which memory is limited, starting a process or unpickling a class is an error, and silence is a timeout.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bench.common.errors import UserError

SECONDS = 20.0  # for one file on a busy machine
MEMORY = 2**30  # bytes of addresses beyond those in use when reading begins
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "pickle.find_class")
NUMBERS = (b"-1", b"0", b"1e999", b"NaN", b"1e-320", b"99999999999999999999", b"null", b'"x"', b"[]", b"{}", b"true")
EXTREMES = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x00", b"\x80\x00\x00\x00")

CONTEXT = get_context("forkserver")

Kind = Literal["read", "reported", "error", "crash", "timeout"]


@dataclass(frozen=True)
class Outcome:
    """How reading one mutation ended. `text`: the message of what was raised, or the exit code of a crash."""

    number: int
    kind: Kind
    text: str = ""


def mutate(content: bytes, number: int) -> bytes:
    """Mutation `number` of a file: cut, bits flipped, ranges lost, doubled or zeroed, sizes and numbers exaggerated."""
    random = np.random.default_rng([number, len(content)])
    mutated = bytearray(content)
    for _ in range(int(random.integers(1, 4))):
        if not mutated:
            break
        kind = random.choice(("cut", "bits", "lose", "double", "zero", "extreme", "number", "text"))
        start = int(random.integers(len(mutated)))
        if random.random() < 0.5:  # headers decide more than pixels
            start = int(random.integers(min(256, len(mutated))))
        stop = start + int(random.integers(1, 65))
        if kind == "cut":
            del mutated[start:]
        elif kind == "bits":
            for at in random.integers(start, min(stop, len(mutated)), 4):
                mutated[at] ^= 1 << int(random.integers(8))
        elif kind == "lose":
            del mutated[start:stop]
        elif kind == "double":
            mutated[start:start] = mutated[start:stop] * int(random.integers(1, 50))
        elif kind == "zero":
            mutated[start:stop] = bytes(len(mutated[start:stop]))
        elif kind == "extreme":
            mutated[start : start + 4] = random.choice(np.array(EXTREMES, object))
        elif kind == "number":
            _replace_number(mutated, start, random.choice(np.array(NUMBERS, object)))
        else:
            mutated[start:stop] = random.bytes(stop - start)
    return bytes(mutated)


def run_reader(
    read: Callable[[Path], object], contents: Sequence[bytes], path: Path, seconds: float = SECONDS
) -> list[Outcome]:
    """Write each content to `path` and read it. `read` can be sent to a process; UserError is what it may raise."""
    outcomes: list[Outcome] = []
    while len(outcomes) < len(contents):
        receiver, sender = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=_read_all, args=(read, contents, path, len(outcomes), sender), daemon=True)
        process.start()
        sender.close()
        try:
            receiver.poll(60)  # until the process has imported what it needs
            receiver.recv()
            while len(outcomes) < len(contents):
                if not receiver.poll(seconds):
                    outcomes.append(Outcome(len(outcomes), "timeout", f"more than {seconds:.0f} s"))
                    break
                outcomes.append(receiver.recv())
        except EOFError:
            process.join(10)
            outcomes.append(Outcome(len(outcomes), "crash", f"exit code {process.exitcode}"))
        process.kill()
        process.join()
    return outcomes


def assert_reported(outcomes: Sequence[Outcome], name: str = "") -> None:
    """Every mutation was read, or reported by a message that holds `name` and is no traceback."""
    wrong = [each for each in outcomes if each.kind not in ("read", "reported")]
    assert not wrong, f"{len(wrong)} of {len(outcomes)}: {wrong[:5]}"
    unclear = [
        each for each in outcomes if each.kind == "reported" and (name not in each.text or len(each.text) > 2000)
    ]
    assert not unclear, unclear[:5]


def _replace_number(content: bytearray, start: int, value: bytes) -> None:
    """The first number in text from `start` on."""
    while start < len(content) and content[start : start + 1] not in b"-0123456789":
        start += 1
    stop = start
    while stop < len(content) and content[stop : stop + 1] in b"-+.eE0123456789":
        stop += 1
    content[start:stop] = value


def _read_all(
    read: Callable[[Path], object], contents: Sequence[bytes], path: Path, first: int, sender: Connection
) -> None:
    """Of a child process: the outcomes from `first` on."""
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY, in_use + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.addaudithook(_refuse_execution)
    sender.send(None)
    for number in range(first, len(contents)):
        path.write_bytes(contents[number])
        try:
            read(path)
            outcome = Outcome(number, "read")
        except UserError as error:
            outcome = Outcome(number, "reported", str(error))
        except BaseException as error:
            outcome = Outcome(number, "error", f"{type(error).__name__}: {error}"[:500])
        sender.send(outcome)


def _refuse_execution(event: str, arguments: tuple[Any, ...]) -> None:
    if event in FORBIDDEN:
        raise AssertionError(f"{event} {arguments[:2]}")
