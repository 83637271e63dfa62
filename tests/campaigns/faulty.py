"""`python tests/campaigns/faulty.py -m MODULE …`: Python with faults. tests/campaigns/fault_campaign.py has a cluster's jobs run with it.

$EAD_FAULTS holds plan.json, {run: [faults in order]}. A process that comes to where a fault of its run is planned
writes down who it is, what it is doing and at which step, makes sure that this is on disk, and kills itself with
SIGKILL: inside a training step, half-way through writing a checkpoint or a record, before or after it takes its place,
in the middle of an evaluation. Each fault happens once. What is written, by whom and under which lease goes to
writes.jsonl.

$EAD_BREAK=rename writes files in place; =fencing lets a process write whose lease was taken over.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import bench.common.files
import bench.runs.folder
import bench.runs.lease
import bench.work
from bench.runs.folder import RunFolder
from bench.runs.writer import PlainWriter

FOLDER = Path(os.environ["EAD_FAULTS"])
BROKEN = os.environ.get("EAD_BREAK", "")
HERE: dict[str, Any] = {"run": None, "number": None, "step": 0, "scenes": 0}  # what this process works on


def due(kind: str, **found: Any) -> dict[str, Any] | None:
    """The fault of this run that is planned here and has not happened yet."""
    plan = json.loads((FOLDER / "plan.json").read_text())
    for fault in plan.get(HERE["run"], []):
        if fault["kind"] == kind and not _proof(fault).exists() and all(fault[key] == found[key] for key in found):
            return dict(fault)
    return None


def happen(fault: Mapping[str, Any], **found: Any) -> NoReturn:
    """Proof first, then the end."""
    told = RunFolder(Path(HERE["folder"])).status()
    proof = {
        **fault, **found, "victim": "worker", "pid": os.getpid(), "host": os.environ.get("SLURMD_NODENAME"),
        "job": os.environ.get("SLURM_JOB_ID"), "restart": os.environ.get("SLURM_RESTART_COUNT", "0"),
        "run": HERE["run"], "lease": HERE["number"], "phase": told.phase, "step": HERE["step"], "time": time.time(),
    }  # fmt: skip
    path = _proof(fault)
    with path.open("x") as file:
        json.dump(proof, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("alive")


def _proof(fault: Mapping[str, Any]) -> Path:
    return FOLDER / "done" / f"{fault['id']}.json"


def commit(target: Path, write: Callable[[Path], None], check: Callable[[], None] = lambda: None) -> None:
    """bench.common.files.atomic_write, which may be cut short."""
    fault = None
    if HERE["run"] and target.is_relative_to(HERE["folder"]) and "lease" not in target.parts:
        checkpoint = target.parent.name == "checkpoints"
        name = {"name": target.name} if not checkpoint else {"at": int(target.name.removeprefix("step_"))}
        fault = due("checkpoint write" if checkpoint else "record write", **name)

    def half(path: Path) -> None:
        write(path)
        if fault and fault["when"] == "half":
            files = [path] if path.is_file() else sorted(path.iterdir(), key=lambda file: file.stat().st_size)
            os.truncate(files[-1], files[-1].stat().st_size // 2)
            happen(fault, name=str(target.relative_to(HERE["folder"])))

    def checked() -> None:
        check()
        if fault and fault["when"] == "whole":
            happen(fault, name=str(target.relative_to(HERE["folder"])))

    if BROKEN == "rename" and fault:
        target.parent.mkdir(parents=True, exist_ok=True)
        half(target)
    _commit(target, half, checked)
    if fault:
        happen(fault, name=str(target.relative_to(HERE["folder"])))


def _note(writer: PlainWriter, name: str) -> None:
    told = {"run": HERE["run"], "pid": os.getpid(), "number": HERE["number"], "name": name, "time": time.time()}
    with (FOLDER / "writes.jsonl").open("a") as file:
        file.write(json.dumps(told) + "\n")


def _begin(work: bench.work.Worker) -> int:
    HERE.update(run=work.folder.id, folder=str(work.folder.path), number=work.writer.lease.number)
    steps = work.folder.metrics()
    HERE["step"] = steps[-1]["step"] if steps else 0
    return _run(work)


def _train(work: bench.work.Worker, *words: Any) -> None:
    from bench.training.trainer import Trainer

    before = Trainer.step

    def step(trainer: Any, number: int, batch: Any) -> Any:
        HERE["step"] = number
        if work.phase == "train" and (fault := due("train", at=number)):
            trainer.accumulate(number, batch)
            happen(fault)
        return before(trainer, number, batch)

    Trainer.step = step  # type: ignore[method-assign]
    _stage_train(work, *words)


def _evaluate(work: bench.work.Worker, *words: Any) -> None:
    import bench.evaluation.evaluate

    before = bench.evaluation.evaluate.predict

    def predict(*given: Any) -> Any:
        HERE["scenes"] += 1
        result = before(*given)
        if fault := due("evaluate"):
            happen(fault, scenes=HERE["scenes"])
        return result

    bench.evaluation.evaluate.predict = predict
    _stage_evaluate(work, *words)


def _append(writer: PlainWriter, name: str, record: Mapping[str, object]) -> None:
    _write_line(writer, name, record)
    _note(writer, name)


def _commit_of(writer: PlainWriter, name: str, write: Callable[[Path], None]) -> None:
    _write_file(writer, name, write)
    _note(writer, name)


_commit = bench.common.files.atomic_write
bench.common.files.atomic_write = bench.runs.folder.atomic_write = commit  # type: ignore[attr-defined]
_write_line, PlainWriter.append = PlainWriter.append, _append  # type: ignore[method-assign]
_write_file, PlainWriter.commit = PlainWriter.commit, _commit_of  # type: ignore[method-assign]
_run, bench.work.Worker.run = bench.work.Worker.run, _begin  # type: ignore[method-assign]
_stage_train, bench.work.Worker._train = bench.work.Worker._train, _train  # type: ignore[method-assign]
_stage_evaluate, bench.work.Worker._evaluate = bench.work.Worker._evaluate, _evaluate  # type: ignore[method-assign]
if BROKEN == "fencing":
    bench.runs.lease.Lease.check = lambda lease: None  # type: ignore[method-assign]

if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "-u"]
    sys.argv = words[1:]
    runpy.run_module(words[1], run_name="__main__", alter_sys=True)
