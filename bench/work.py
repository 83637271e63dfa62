"""`python -m bench.work RUN_FOLDER`: one run's missing stages, in a process of their own, under the run's lease.

train → evaluate → profile, each skipped when its file is there. How it ended stands in status.json and the exit code:
0 done, 75 somebody else holds the run, 130 stopped on request (a checkpoint is written), 1 anything else.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from bench import disk, environment, protocols
from bench.errors import BadInput, run_command
from bench.lease import Held, Lease, LeasedWriter, Stale
from bench.record import RunFolder, Status, remove_leftovers, write_json

if TYPE_CHECKING:
    import torch

    from bench.data.scene import DataSource
    from bench.spec.schema import RunSpec

HELD, STOPPED = 75, 130  # exit codes
TRACE_LINES = 12
STAGES = ("train", "evaluate", "profile", "overfit")

log = logging.getLogger(__name__)


def missing_stages(folder: RunFolder) -> list[str]:
    """What a run still lacks, in order. One profile is enough, on whatever device."""
    spec = folder.spec()
    evaluated = folder.evaluations()
    lacks = {
        "train": folder.training() is None,
        "evaluate": any(protocols.get(name).key not in evaluated for name in spec["evaluation"]["protocols"]),
        "profile": not folder.profiles(),
        "overfit": bool(spec["views"]["overfit"]) and folder.overfit() is None,
    }
    return [stage for stage in STAGES if lacks[stage]]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.work", description="Do what one run still lacks.")
    parser.add_argument("folder", type=Path, metavar="RUN_FOLDER", help="with spec.json, as `bench.run` makes it")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, …")
    parser.add_argument("--threads", type=int, default=environment.cores(), help="of the CPU")
    parser.add_argument("--controller", type=int, metavar="PID", help="stop once this parent is gone")
    parser.add_argument("--claims", type=int, metavar="N", help="leave the run to others if it had more than N so far")
    args = parser.parse_args(argv)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(args.threads)  # read once, when torch and numpy are imported
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.captureWarnings(True)
    folder = RunFolder(args.folder.resolve())
    if not (folder.path / "spec.json").is_file():
        raise BadInput(f"{folder.path} is no run folder: it has no spec.json")
    try:
        with Lease(folder.path) as lease:
            if args.claims is not None and lease.number > args.claims + 1:
                raise Held("others in the meantime")
            return Work(folder, LeasedWriter(folder.path, lease), args.device, args.threads, args.controller).run()
    except Held as held:
        log.info("run %s was taken by %s", folder.id, held)
        return HELD


@dataclass
class Work:
    """A run's stages in this process; signals stop it."""

    folder: RunFolder
    writer: LeasedWriter
    device_name: str
    threads: int
    controller: int | None  # the process without which this one stops
    phase: str = ""
    asked: str = ""  # why to stop, once somebody asked

    def run(self) -> int:
        """The stages that are missing, to a status and an exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        try:
            status = self._outcome()
            self.folder.set_status(status, self.writer.check)
        except Stale as stale:
            log.error("%s; this process stops without writing", stale)
            return 1
        log.info("run %s: %s", self.folder.id, status.state)
        return {"done": 0, "cancelled": STOPPED}.get(status.state, 1)

    def _outcome(self) -> Status:
        try:
            remove_leftovers(self.folder.path)
            if missing := missing_stages(self.folder):
                self._stages(missing)
            return Status("done")
        except Stale:
            raise
        except BaseException as error:
            status = _end(error, self.phase, self.asked)
            log.error("%s: %s\n%s", status.state, status.message, traceback.format_exc() if status.trace else "")
            return status

    def _stages(self, missing: Sequence[str]) -> None:
        self._enter("prepare")
        log.info("run %s: %s to do, process %d", self.folder.id, ", ".join(missing), os.getpid())
        from bench import spec as specs
        from bench.data.sampler import open_source

        spec = specs.from_dict(self.folder.spec())
        device = self._device()
        recorded = environment.describe(device, self.threads) | {"deterministic": device.type == "cpu"}
        self.writer.commit("environment.json", lambda path: write_json(path, recorded))
        source = open_source(spec)
        stages = {"train": self._train, "evaluate": self._evaluate, "profile": self._profile, "overfit": self._overfit}
        for stage in missing:
            if self.asked:
                raise KeyboardInterrupt
            self._enter(stage)
            stages[stage](spec, device, source)

    def _enter(self, phase: str) -> None:
        self.phase = phase
        self.folder.set_status(Status("running", phase), self.writer.check)

    def _device(self) -> torch.device:
        """Sets threads and determinism. On CUDA the rasteriser adds in any order: nothing is promised there."""
        import torch

        torch.set_num_threads(self.threads)
        device = torch.device(self.device_name)
        if device.type == "cuda" and not torch.cuda.is_available():
            raise BadInput(f"--device {self.device_name}: torch {torch.__version__} finds no CUDA device")
        if device.type == "cpu":
            torch.use_deterministic_algorithms(True)
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        return device

    def _train(self, spec: RunSpec, device: torch.device, source: DataSource) -> None:
        from bench.train import train

        train(spec, self.writer, device=device, source=source, stop=self._stop)

    def _evaluate(self, spec: RunSpec, device: torch.device, source: DataSource) -> None:
        from bench.evaluate import evaluate

        for name in spec.evaluation.protocols:
            if protocols.get(name).key not in self.folder.evaluations():
                evaluate(spec, self.writer, device=device, source=source, protocol=name)

    def _profile(self, spec: RunSpec, device: torch.device, source: DataSource) -> None:
        from bench.measure import profile

        profile(spec, self.writer, device=device, source=source)

    def _overfit(self, spec: RunSpec, device: torch.device, source: DataSource) -> None:
        from bench.overfit import check

        verdict = check(spec, self.folder.path, device=device, source=source)
        content = {"passed": verdict.passed, "text": str(verdict)}
        self.writer.commit("overfit.json", lambda path: write_json(path, content))

    def _stop(self) -> bool:
        """Asked at every step. A worker whose controller is gone stops too: nothing runs unseen."""
        if not self.asked and self.controller not in (None, os.getppid()):
            self.asked = "its controller is gone"
        return bool(self.asked)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Training writes a checkpoint first, unless asked twice; what else there is can be done again."""
        again, self.asked = self.asked, signal.Signals(number).name
        if again or self.phase != "train":
            raise KeyboardInterrupt


def _end(error: BaseException, phase: str, asked: str) -> Status:
    """What an exception says about a run."""
    import torch

    from bench.health import NonFinite
    from bench.train import Stopped

    text = str(error) or type(error).__name__
    trace = "".join(traceback.format_exception(error)).splitlines()[-TRACE_LINES:]
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text
    if isinstance(error, Stopped | KeyboardInterrupt) or asked:
        return Status("cancelled", phase, f"{asked or 'interrupted'}: {text}")
    if disk.full(error):
        return Status("failed", phase, f"the disk is full ({text}); make room, then --retry failed goes on")
    if isinstance(error, NonFinite):
        return Status("nan", phase, text)
    if isinstance(error, BadInput):
        return Status("failed", phase, text)
    return Status("oom" if memory else "failed", phase, f"{type(error).__name__}: {text}", "\n".join(trace))


if __name__ == "__main__":
    run_command(main)
