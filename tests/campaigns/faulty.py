"""`python tests/campaigns/faulty.py -m MODULE …`: Python with fault injection, for the jobs of fault_campaign.py.

$EAD_FAULTS holds plan.json, {run: [faults in order]}. A process that reaches a planned fault of its run records host,
pid, phase and step, flushes that to disk, and kills itself with SIGKILL: inside a training step, half-way through
writing a checkpoint or a record, before or after the rename, or during an evaluation. Each fault happens once. Every
write, with its process and lease number, is logged to writes.jsonl.

$EAD_BREAK=rename writes files in place; =fencing allows writes under a lease that was taken over.
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
import bench.runs.lease
import bench.runs.writer
from bench.execution.worker import Worker
from bench.runs.folder import RunFolder
from bench.runs.writer import PlainWriter

FOLDER = Path(os.environ["EAD_FAULTS"])
BROKEN = os.environ.get("EAD_BREAK", "")
HERE: dict[str, Any] = {"run": None, "number": None, "step": 0, "scenes": 0}  # the run of this process


def planned_fault(kind: str, **where: Any) -> dict[str, Any] | None:
    """The fault of this run that is planned here and has not happened yet."""
    plan = json.loads((FOLDER / "plan.json").read_text())
    for fault in plan.get(HERE["run"], []):
        if fault["kind"] == kind and not _proof(fault).exists() and all(fault[key] == where[key] for key in where):
            return dict(fault)
    return None


def crash(fault: Mapping[str, Any], **details: Any) -> NoReturn:
    """Record the fault, then SIGKILL."""
    status = RunFolder(Path(HERE["folder"])).status()
    proof = {
        **fault, **details, "victim": "worker", "pid": os.getpid(), "host": os.environ.get("SLURMD_NODENAME"),
        "job": os.environ.get("SLURM_JOB_ID"), "restart": os.environ.get("SLURM_RESTART_COUNT", "0"),
        "run": HERE["run"], "lease": HERE["number"], "phase": status.phase, "step": HERE["step"], "time": time.time(),
    }  # fmt: skip
    path = _proof(fault)
    with path.open("x") as file:
        json.dump(proof, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL did not end the process")


def _proof(fault: Mapping[str, Any]) -> Path:
    return FOLDER / "done" / f"{fault['id']}.json"


def commit(target: Path, write: Callable[[Path], None], check: Callable[[], None] = lambda: None) -> None:
    """bench.common.files.atomic_write with faults."""
    fault = None
    if HERE["run"] and target.is_relative_to(HERE["folder"]) and "lease" not in target.parts:
        checkpoint = target.parent.name == "checkpoints"
        name = {"name": target.name} if not checkpoint else {"at": int(target.name.removeprefix("step_"))}
        fault = planned_fault("checkpoint write" if checkpoint else "record write", **name)

    def half(path: Path) -> None:
        write(path)
        if fault and fault["when"] == "half":
            files = [path] if path.is_file() else sorted(path.iterdir(), key=lambda file: file.stat().st_size)
            os.truncate(files[-1], files[-1].stat().st_size // 2)
            crash(fault, name=str(target.relative_to(HERE["folder"])))

    def checked() -> None:
        check()
        if fault and fault["when"] == "whole":
            crash(fault, name=str(target.relative_to(HERE["folder"])))

    if BROKEN == "rename" and fault:
        target.parent.mkdir(parents=True, exist_ok=True)
        half(target)
    original_atomic_write(target, half, checked)
    if fault:
        crash(fault, name=str(target.relative_to(HERE["folder"])))


def log_write(writer: PlainWriter, name: str) -> None:
    record = {"run": HERE["run"], "pid": os.getpid(), "number": HERE["number"], "name": name, "time": time.time()}
    with (FOLDER / "writes.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")


def run_worker(worker: Worker) -> int:
    """Worker.run, with faults in its training steps and evaluations."""
    import bench.evaluation.evaluate
    from bench.training.trainer import Trainer

    HERE.update(run=worker.folder.id, folder=str(worker.folder.path), number=worker.writer.lease.number)
    records = worker.folder.metrics()
    HERE["step"] = records[-1]["step"] if records else 0
    original_step, original_predict = Trainer.step, bench.evaluation.evaluate.predict

    def step(trainer: Any, number: int, batch: Any) -> Any:
        HERE["step"] = number
        if worker.phase == "train" and (fault := planned_fault("train", at=number)):
            trainer.accumulate(number, batch)
            crash(fault)
        return original_step(trainer, number, batch)

    def predict(*arguments: Any, **options: Any) -> Any:
        HERE["scenes"] += 1
        result = original_predict(*arguments, **options)
        if worker.phase == "evaluate" and (fault := planned_fault("evaluate")):
            crash(fault, scenes=HERE["scenes"])
        return result

    Trainer.step = step  # type: ignore[method-assign]
    bench.evaluation.evaluate.predict = predict
    return original_run(worker)


def append(writer: PlainWriter, name: str, *records: Mapping[str, object]) -> None:
    original_append(writer, name, *records)
    log_write(writer, name)


def commit_file(writer: PlainWriter, name: str, write: Callable[[Path], None]) -> None:
    original_commit(writer, name, write)
    log_write(writer, name)


original_atomic_write = bench.common.files.atomic_write
bench.common.files.atomic_write = bench.runs.writer.atomic_write = commit
original_append, PlainWriter.append = PlainWriter.append, append  # type: ignore[method-assign]
original_commit, PlainWriter.commit = PlainWriter.commit, commit_file  # type: ignore[method-assign]
original_run, Worker.run = Worker.run, run_worker  # type: ignore[method-assign]
if BROKEN == "fencing":
    bench.runs.lease.Lease.check = lambda lease: None  # type: ignore[method-assign]

if __name__ == "__main__":
    command_line = [word for word in sys.argv[1:] if word != "-u"]
    sys.argv = command_line[1:]
    runpy.run_module(command_line[1], run_name="__main__", alter_sys=True)
