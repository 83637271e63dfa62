"""`python -m bench.work RUN_FOLDER`: one run in a process of its own: train, evaluate, profile, what is missing of it."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bench import lease
from bench.errors import BadInput, run_command
from bench.record import RunFolder, State, Status

if TYPE_CHECKING:
    from bench.lease import LeasedWriter
    from bench.spec.schema import RunSpec

DONE, FAILED, BUSY = 0, 1, 3  # exit codes
TRACE_LINES = 12


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.work", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    if not (options.folder / "spec.json").is_file():
        raise BadInput(f"{options.folder} holds no spec.json: it is not the folder of a run")
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # before torch is imported
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with lease.held(options.folder) as taken:
        if taken is None:
            print("another process works on this run")
            return BUSY
        return work(lease.LeasedWriter(taken), options.device, options.threads)


def work(writer: LeasedWriter, device: str, threads: int) -> int:
    """Run the stages that are missing, and record how it ended."""
    folder = RunFolder(writer.folder)
    for crashed in writer.folder.rglob(".tmp-*"):
        shutil.rmtree(crashed, ignore_errors=True)
    phase = ["start"]

    def enter(name: str) -> None:
        phase[0] = name
        folder.set_status(Status("running", name), writer.check)

    try:
        enter("start")
        stages(writer, device, threads, enter)
    except lease.Fenced as error:
        print(error)
        return FAILED
    except BaseException as error:
        state = _state(error)
        lines = traceback.format_exc().strip().splitlines()
        print("\n".join(lines), file=sys.stderr)
        message = str(error) or type(error).__name__
        trace = "" if state == "cancelled" else "\n".join(lines[-TRACE_LINES:])
        folder.set_status(Status(state, phase[0], message, trace), writer.check)
        return FAILED
    folder.set_status(Status("done"), writer.check)
    return DONE


def stages(writer: LeasedWriter, device_name: str, threads: int, enter: Callable[[str], None]) -> None:
    """Train, evaluate under each protocol, profile; each is skipped where its file exists."""
    import torch

    from bench import protocols, spec
    from bench.data.sampler import open_source
    from bench.evaluate import evaluate
    from bench.measure import profile
    from bench.train import Stopped, train

    torch.set_num_threads(threads)
    device = torch.device(device_name)
    folder = RunFolder(writer.folder)
    run: RunSpec = spec.from_dict(folder.spec())
    spec.verify_files(run)
    asked = _stop_flag()
    source = open_source(run, progress=False)
    if folder.training() is None:
        enter("train")
        train(run, writer, device=device, source=source, stop=lambda: bool(asked))
    for name in run.evaluation.protocols:
        if protocols.get(name).key not in folder.evaluations():
            enter("evaluate")
            evaluate(run, writer, device=device, source=source, protocol=name)
        if asked:
            raise Stopped("stopped after evaluation")
    if not folder.profiles():
        enter("profile")
        profile(run, writer, device=device, source=source)


def _stop_flag() -> list[int]:
    """Filled by SIGTERM or SIGINT; the step loop reads it."""
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _: asked.append(got))
    return asked


def _state(error: BaseException) -> State:
    """The status that an exception means."""
    name = type(error).__name__
    if name == "Stopped" or isinstance(error, KeyboardInterrupt):
        return "cancelled"
    if name == "NonFinite":
        return "nan"
    if isinstance(error, MemoryError) or name == "OutOfMemoryError" or "can't allocate memory" in str(error):
        return "oom"
    return "failed"


if __name__ == "__main__":
    run_command(main)
