"""A list of measurements that may be cut off anywhere: each is written when it is done, and never done twice."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.common.console import print_line
from bench.common.environment import device_name
from bench.common.json_files import read_json, write_json
from bench.common.paths import code_hash

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from bench.profiling.gpu.background import Background

CODE = (
    "models", "ablations/base", "bench/rendering", "bench/outputs", "bench/losses", "bench/training", "bench/runtime",
    "bench/data", "bench/evaluation", "bench/config", "bench/profiling",
)  # fmt: skip
RESULTS = ("done", "oom")  # states in which a measurement has a result


@dataclass(frozen=True)
class Suite:
    """Where it writes and runs, at which size, and until when."""

    output: Path
    device: torch.device
    tiny: bool
    deadline: float  # time.monotonic()
    console: Console
    background: Background
    paper: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # of Table 3: parameters_millions, gpu_gb

    def remaining_s(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def key(self) -> dict[str, str]:
        """What results belong to: the device, and the code that computes them."""
        return {"device": device_name(self.device), "size": "tiny" if self.tiny else "paper", "code": _code()}


@dataclass(frozen=True)
class Measurement:
    """`run` returns its result, ready for JSON, with a `summary` of a line; {"passed": False} marks it as failed."""

    part: str
    name: str
    run: Callable[[Suite], dict[str, Any]]
    about_s: float = 30.0  # on an H100; it is not started where less time is left
    quiet: bool = True  # it starts when nothing runs in the background


def run_all(suite: Suite, measurements: Sequence[Measurement], retry: bool) -> bool:
    """Run what earlier files in the folder do not hold; whether all have a result. With `retry` failed ones, too.

    Stops where the GPU no longer answers; the next call goes on behind the measurement that broke it.
    """
    complete = True
    for measurement in measurements:
        earlier = find(suite, measurement)
        if earlier is not None and not is_due(earlier, retry):
            _print(suite, measurement, f"{earlier['state']} earlier", earlier)
            complete &= earlier["state"] in RESULTS
            continue
        needed_s = 0 if suite.tiny else measurement.about_s
        if measurement.quiet:
            suite.background.wait(until=suite.deadline - needed_s)
        if suite.remaining_s() < needed_s:
            _print(
                suite,
                measurement,
                f"skipped: about {measurement.about_s:.0f} s, {max(suite.remaining_s(), 0):.0f} s left",
            )
            complete = False
        else:
            record = _run(suite, measurement)
            _print(suite, measurement, record["state"], record)
            complete &= record["state"] in RESULTS
            if not _works(suite.device):
                print_line(suite.console, "the GPU no longer answers: call the command again to go on", "red")
                return False
    return complete


def is_due(earlier: Mapping[str, Any] | None, retry: bool) -> bool:
    """Whether a measurement with this earlier record is to run."""
    return earlier is None or (retry and earlier["state"] == "failed")


def find(suite: Suite, measurement: Measurement) -> dict[str, Any] | None:
    """The record of a measurement on this device by this code, if an earlier call has left one."""
    records = _records(suite, measurement.part)
    return next((r for r in records if r["name"] == measurement.name and suite.key().items() <= r.items()), None)


@cache
def _code() -> str:
    return code_hash(CODE)[:16]


def _run(suite: Suite, measurement: Measurement) -> dict[str, Any]:
    """Run a measurement and write its record, also of a failure."""
    import torch

    from bench.runtime import provenance

    started = time.monotonic()
    record: dict[str, Any] = {"name": measurement.name, **suite.key()}
    try:
        result = measurement.run(suite)
        record |= {"state": "done" if result.pop("passed", True) else "failed", **result}
    except torch.OutOfMemoryError as error:
        record |= {"state": "oom", "summary": str(error).splitlines()[0], **_memory(suite.device)}
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        record |= {"state": "failed", "summary": reason, "trace": traceback.format_exc().splitlines()[-15:]}
    record["seconds"] = round(time.monotonic() - started, 1)
    record["provenance"] = provenance.of_process(suite.device, torch.get_num_threads())
    _free(suite.device)
    others = [r for r in _records(suite, measurement.part) if not _same(r, record)]
    write_json(_path(suite, measurement.part), {"part": measurement.part, "measurements": [*others, record]})
    return record


def _same(record: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a record replaces another: of older code, but not of another device."""
    return all(record[key] == other[key] for key in ("name", "device", "size"))


def _path(suite: Suite, part: str) -> Path:
    return suite.output / f"{part}.json"


def _records(suite: Suite, part: str) -> list[dict[str, Any]]:
    path = _path(suite, part)
    records: list[dict[str, Any]] = read_json(path)["measurements"] if path.is_file() else []
    return records


def _memory(device: torch.device) -> dict[str, Any]:
    """GiB, when memory ran out."""
    import torch

    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    peaks = {"allocated": torch.cuda.max_memory_allocated(device), "reserved": torch.cuda.max_memory_reserved(device)}
    return {"memory_gib": {name: size / 2**30 for name, size in (peaks | {"free": free, "total": total}).items()}}


def _free(device: torch.device) -> None:
    """Give back what a measurement has left, so that the next one's peaks are its own."""
    import gc

    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _works(device: torch.device) -> bool:
    """Whether the device still works: an illegal access ends all work of a process on a GPU."""
    import torch

    try:
        torch.ones(1, device=device).item()
    except RuntimeError:
        return False
    return True


def _print(suite: Suite, measurement: Measurement, state: str, record: Mapping[str, Any] | None = None) -> None:
    cells = [f"{measurement.part}, {measurement.name}: {state}"]
    if record:
        cells += [f"{record['seconds']} s", str(record.get("summary", ""))]
    print_line(suite.console, "  ".join(filter(None, cells)))


def select(measurements: Iterable[Measurement], parts: Sequence[str]) -> list[Measurement]:
    """Those of some parts, in the list's order, which is that of their value."""
    return [measurement for measurement in measurements if measurement.part in parts]
