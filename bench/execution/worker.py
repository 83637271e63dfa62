"""One run's missing stages, in a process of their own, under the run's lease."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any

from bench import protocols
from bench.common import disk, environment
from bench.common.errors import UserError
from bench.common.exit_codes import LOCKED, STOPPED
from bench.common.files import remove_leftovers
from bench.common.json_files import write_json
from bench.execution.endings import ExecutionContext, status_of_exception
from bench.runs import attempts
from bench.runs.folder import RunFolder, Status
from bench.runs.lease import Lease, LeasedWriter, LeaseHeld, LeaseLost
from bench.runs.states import State
from bench.runs.writer import NullWriter

if TYPE_CHECKING:
    import torch

    from bench.config.schema import RunSpec
    from bench.data.scene import DataSource
    from bench.runtime.distributed import DistributedContext


STAGES = ("train", "evaluate", "profile", "trace", "overfit")
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)  # the last: SLURM's warning before a time limit

log = logging.getLogger(__name__)


def missing_stages(folder: RunFolder, spec: Mapping[str, Any] | None = None) -> list[str]:
    """A run's incomplete stages, in order; `spec` (default: the folder's) may request more, such as a trace.

    One profile and one trace are enough, on whatever device; both need training steps.
    """
    spec = spec or folder.spec()
    evaluated = folder.evaluations()
    missing = {
        "train": folder.training() is None,
        "evaluate": bool(requested_evaluations(spec) - evaluated.keys()),
        "profile": spec["train"]["steps"] > 0 and not folder.profiles(),
        "trace": spec["train"]["steps"] > 0 and traced(spec) and not folder.traces(),
        "overfit": bool(spec["views"]["overfit"]) and folder.overfit() is None,
    }
    return [stage for stage in STAGES if missing[stage]]


def requested_evaluations(spec: Mapping[str, Any]) -> set[str]:
    """The keys of the results that a resolved spec requests."""
    numbers = spec["views"].get("evaluation_inputs", ())
    others = {numbers} if isinstance(numbers, int) else {*numbers}
    return {*protocols.evaluations(spec["evaluation"]["protocols"], others - {spec["views"].get("inputs")})}


def traced(spec: Mapping[str, Any]) -> bool:
    """Whether a resolved spec requests a trace."""
    return bool(spec.get("profile", {}).get("trace"))


def work(folder: RunFolder, options: argparse.Namespace, context: ExecutionContext | None = None) -> int:
    """The incomplete stages of a run, as this process's rank; an exit code (see bench/work.py).

    `options`: those of bench.execution.direct: device, threads, controller, claims.
    """
    rank, _ = environment.rank_and_world_size()
    if rank:
        return run_worker_rank(folder, options.device, options.threads)
    try:
        with Lease(folder.path) as lease:
            if options.claims is not None and lease.number > options.claims + 1:
                raise LeaseHeld("another process in the meantime")
            writer = LeasedWriter(folder.path, lease)
            context = context or ExecutionContext()
            return Worker(folder, writer, options.device, options.threads, options.controller, context).run()
    except LeaseHeld as held:
        log.info("run %s is locked by %s", folder.id, held)
        return LOCKED


@dataclass
class Worker:
    """Runs the stages of a run in this process, until a signal stops it."""

    folder: RunFolder
    writer: LeasedWriter
    device_name: str
    threads: int
    controller: int | None  # pid of the parent with which this process stops
    context: ExecutionContext = field(default_factory=ExecutionContext)
    phase: str = ""
    stop_request: str = ""  # received signals, or another reason to stop
    ranks: DistributedContext = field(init=False, repr=False)  # set once all ranks have joined

    def run(self) -> int:
        """Run the incomplete stages, record the status; an exit code."""
        for number in STOP_SIGNALS:
            signal.signal(number, self.on_signal)
        try:
            status = self._run_stages()
            self.folder.set_status(status, self.writer.check)
            attempts.finish_attempt(self.writer, status)
        except LeaseLost as error:
            log.error("%s; this process stops without writing", error)
            return 1
        log.info("run %s: %s", self.folder.id, status.state)
        if status.state is State.DONE:
            return 0
        return STOPPED if status.state.was_stopped else 1

    def _run_stages(self) -> Status:
        try:
            attempts.begin_attempt(self.writer, self.context.classify_missing_exit)
            remove_leftovers(self.folder.path)
            missing = missing_stages(self.folder)
            if missing or environment.rank_and_world_size()[1] > 1:
                self._run(missing)
            return Status(State.DONE)
        except LeaseLost:
            raise
        except BaseException as error:
            status = self._status_of(error)
            log.error("%s: %s\n%s", status.state, status.message, traceback.format_exc() if status.trace else "")
            return status

    def _run(self, missing: Sequence[str]) -> None:
        self._set_stage("prepare")
        log.info("run %s: stages %s, process %d", self.folder.id, ", ".join(missing), os.getpid())
        from bench import config as specs
        from bench.data.sampler import open_source
        from bench.runtime import rendezvous

        spec = specs.from_dict(self.folder.spec())
        device = setup_device(self.device_name, self.threads)
        self.ranks = rendezvous.join(self.folder.path, device)
        source = open_source(spec.data, spec.model.image_size)  # generates scenes once, while the other ranks wait
        self.ranks.broadcast(missing)
        stages = {"train": self._train, "evaluate": self._evaluate, "profile": self._profile, "trace": self._trace,
                  "overfit": self._overfit}  # fmt: skip
        for stage in missing:
            if self.stop_request:
                raise KeyboardInterrupt
            self._set_stage(stage)
            stages[stage](spec, device, source)
            self.ranks.gather({})
        rendezvous.shutdown()

    def _set_stage(self, phase: str) -> None:
        self.phase = phase
        self.folder.set_status(Status(State.RUNNING, phase), self.writer.check)

    def _train(self, spec: RunSpec, device: torch.device, source: DataSource) -> None:
        from bench.training.train import train

        if not spec.train.tensorboard:
            train(spec, self.writer, device=device, source=source, ranks=self.ranks, stop=self._stop)
            return
        from bench.training.tensorboard import TensorBoardWriter

        with contextlib.closing(TensorBoardWriter(self.writer)) as writer:
            train(spec, writer, device=device, source=source, ranks=self.ranks, stop=self._stop)

    def _evaluate(self, spec: RunSpec, device: torch.device, source: DataSource) -> None:
        from bench.evaluation.evaluate import evaluate_missing

        evaluate_missing(spec, self.writer, device=device, source=source, ranks=self.ranks)

    def _profile(self, spec: RunSpec, device: torch.device, source: DataSource) -> None:
        from bench.profiling.step_profile import profile

        profile(spec, self.writer, device=device, source=source, ranks=self.ranks)

    def _trace(self, spec: RunSpec, device: torch.device, source: DataSource) -> None:
        from bench.profiling.trace import trace

        trace(spec, self.writer, device=device, source=source, ranks=self.ranks)

    def _overfit(self, spec: RunSpec, device: torch.device, source: DataSource) -> None:
        from bench.evaluation.overfit import check_overfit
        from bench.runtime import provenance

        result, training = check_overfit(spec, self.folder.path, device=device, source=source), self.folder.training()
        assert training is not None  # the stage before this one
        content = {
            "passed": result.passed,
            "text": f"{result}, after {training['steps']} of {spec.train.steps} steps",
            "provenance": provenance.of_stage(spec.model.precision, device),
        }
        self.writer.commit("overfit.json", lambda path: write_json(path, content))

    def _stop(self) -> bool:
        """Called at every step. A worker stops when its controller has ended."""
        if not self.stop_request and self.controller not in (None, os.getppid()):
            self.stop_request = "its controller has ended"
        return bool(self.stop_request)

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Training writes a checkpoint first, unless a second signal comes; other stages are repeated later."""
        previous = self.stop_request
        self.stop_request = ", ".join(filter(None, (previous, signal.Signals(number).name)))
        if (not previous and self.phase != "train") or (previous and not self.context.patient):
            raise KeyboardInterrupt

    def _status_of(self, error: BaseException) -> Status:
        """The status that an exception means; of several ranks another one may have received the signal."""
        from bench.training.train import Stopped

        if (isinstance(error, Stopped | KeyboardInterrupt) or self.stop_request) and not disk.is_disk_full(error):
            for number in STOP_SIGNALS:  # while the status is being written
                signal.signal(number, signal.SIG_IGN)
            state, reason = self.context.classify_stop(self.stop_request)
            return Status(state, self.phase, f"{reason}: {error}" if str(error) else reason)
        return status_of_exception(error, self.phase)


def run_worker_rank(folder: RunFolder, device_name: str, threads: int) -> int:
    """The work of a rank other than the first: it computes, and leaves lease, records and statuses to rank 0.

    When rank 0 fails or stops, `srun --kill-on-bad-exit=1` and torchrun end the others.
    """
    from bench import config as specs
    from bench.data.sampler import open_source
    from bench.evaluation.evaluate import evaluate_missing
    from bench.profiling.step_profile import profile
    from bench.profiling.trace import trace
    from bench.runtime import rendezvous
    from bench.training.train import Stopped, train

    device = setup_device(device_name, threads)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.default_int_handler)
    ranks = rendezvous.join(folder.path, device)
    signals: list[int] = []
    for number in STOP_SIGNALS:
        signal.signal(number, lambda number, _: signals.append(number))
    missing = ranks.broadcast()
    spec, writer = specs.from_dict(folder.spec()), NullWriter(folder.path)
    source = open_source(spec.data, spec.model.image_size)
    with contextlib.suppress(Stopped):  # a non-zero exit would have rank 0 killed while it still writes
        for stage in missing:
            if stage == "train":
                train(spec, writer, device=device, source=source, ranks=ranks, stop=lambda: bool(signals))
            elif stage == "evaluate":
                evaluate_missing(spec, writer, device=device, source=source, ranks=ranks)
            elif stage == "profile":
                profile(spec, writer, device=device, source=source, ranks=ranks)
            elif stage == "trace":
                trace(spec, writer, device=device, source=source, ranks=ranks)
            ranks.gather({})
    rendezvous.shutdown()
    return 0


def setup_device(device_name: str, threads: int) -> torch.device:
    """Set the CPU threads and the current CUDA device; returns the device.

    "cuda" means a different GPU for each process of a node, "auto" the same where there are GPUs. All other
    global state of torch is set by each stage
    (`bench.runtime.numerics`). Raises UserError for a device that does not exist.
    """
    import torch

    torch.set_num_threads(threads)
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device_name == "auto" else device_name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(f"--device {device_name}: torch {torch.__version__} finds no CUDA device")
        if device.index is None:
            device = torch.device("cuda", environment.local_rank() % torch.cuda.device_count())
        torch.cuda.set_device(device)
    return device
