"""A sweep's runs on this machine: one child process per run, at most `jobs` at once, parents before their children.

A run that another command works on is left to it; if that command stops first, the run is resumed here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol

from bench.common import disk
from bench.common.environment import LAUNCHER_VARIABLES
from bench.common.errors import UserError
from bench.common.exit_codes import LOCKED, STOPPED
from bench.common.json_files import write_json
from bench.data.cache import PROCESSES
from bench.execution.worker import missing_stages
from bench.runs.folder import RunFolder, Status
from bench.runs.lease import Lease, LeasedWriter, LeaseHeld, active_holder, current_claim
from bench.runs.states import State

POLL_S = 0.1

# Threads that spin while they wait save 10-17 % of a tiny step on an idle machine, but make it up to 5 times longer
# beside one busy process and 20 times beside another such run (two cores).
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}


@dataclass(frozen=True)
class Task:
    """A run as the launcher needs it. `spec` is resolved (bench.config.to_dict)."""

    folder: RunFolder
    label: str
    spec: Mapping[str, Any]
    parents: tuple[str, ...] = ()  # ids of the runs whose weights it starts from

    @property
    def id(self) -> str:
        return self.folder.id

    def is_done(self) -> bool:
        """Whether all of its stages are complete."""
        return self.folder.status().state is State.DONE and not missing_stages(self.folder, self.spec)


class LaunchCallbacks(Protocol):
    """Receives the progress of a sweep; bench.execution.progress prints it."""

    def update(self, running: Collection[Task], elsewhere: Mapping[str, str]) -> None:
        """Called at every poll. `elsewhere`: label of a run → the process outside this command that holds it."""
        ...

    def finished(self, task: Task, status: Status) -> None:
        """Called once for each task that was pending at the start."""
        ...


def worker_command(folder: Path, device: str, threads: int, attempts: int) -> list[str]:
    """A run's stages in a process that stops with this one, and exits if others have claimed the run since."""
    options = ["--device", device, "--threads", str(threads), "--controller", str(os.getpid())]
    return [sys.executable, "-m", "bench.work", str(folder), *options, "--claims", str(attempts)]


@dataclass
class Launcher:
    """Runs tasks until all have ended.

    `retry`: failed states that are run again. On SIGINT or SIGTERM the children write checkpoints and stop, and
    `stop_request` becomes "stop"; on a second signal they are killed.
    """

    tasks: Sequence[Task]
    callbacks: LaunchCallbacks
    jobs: int = 1
    threads: int = 1
    device: str = "cpu"
    retry: Collection[str] = ()
    command: Callable[[Path, str, int, int], list[str]] = worker_command
    stop_request: Literal["", "stop", "kill"] = ""
    statuses: dict[str, Status] = field(default_factory=dict)  # of tasks that have ended, by id
    waiting: dict[str, Task] = field(default_factory=dict)
    children: dict[str, tuple[Task, subprocess.Popen[bytes]]] = field(default_factory=dict)

    def run(self) -> dict[str, Status]:
        """The final statuses of all tasks, by id."""
        self.statuses = {task.id: task.folder.status() for task in self.tasks if not needs_work(task, self.retry)}
        self.waiting = {task.id: task for task in self.tasks if task.id not in self.statuses}
        self.attempts = {run_id: _attempts(task) for run_id, task in self.waiting.items()}
        handlers = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            while self.children or (self.waiting and not self.stop_request):
                elsewhere = {} if self.stop_request else self._start()
                self.callbacks.update([task for task, _ in self.children.values()], elsewhere)
                time.sleep(POLL_S)
                self._collect()
        finally:
            for _, child in self.children.values():
                child.terminate()
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return {task.id: self.statuses.get(task.id) or task.folder.status() for task in self.tasks}

    def _start(self) -> dict[str, str]:
        """Start what can be started; returns {label: holder} of runs that other commands work on."""
        elsewhere = {}
        for task in list(self.waiting.values()):
            if len(self.children) >= self.jobs:
                break
            parents = [task.folder.path.parent / parent for parent in task.parents]
            untrained = [parent.name for parent in parents if RunFolder(parent).training() is None]
            failed_elsewhere = _attempts(task) > self.attempts[task.id] and task.folder.status().state.needs_retry
            if holder := active_holder(task.folder.path):
                elsewhere[task.label] = str(holder)
            elif task.is_done() or failed_elsewhere:
                self._end(task, task.folder.status())
            elif final_parents := [parent for parent in untrained if parent in self.statuses]:
                state = self.statuses[final_parents[0]].state
                self._end(task, Status(State.PLANNED, message=f"parent run {final_parents[0]} is {state}"))
            elif not untrained:
                self._fail_if_disk_full(task, self._spawn)
        return elsewhere

    def _spawn(self, task: Task) -> None:
        """Start a child in a session of its own: it receives Ctrl-C through this process alone. Output → log.txt."""
        folder = task.folder.path
        try:
            prepare_run_folder(task)
        except LeaseHeld:
            return
        inherited = {name: value for name, value in os.environ.items() if name not in LAUNCHER_VARIABLES}
        with (folder / "log.txt").open("ab") as log:
            child = subprocess.Popen(
                self.command(folder, self.device, self.threads, _attempts(task)),
                env=ENVIRONMENT | inherited | {PROCESSES: str(self.jobs)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.children[task.id] = (task, child)
        del self.waiting[task.id]

    def _collect(self) -> None:
        for task, child in list(self.children.values()):
            if (code := child.poll()) is None:
                continue
            del self.children[task.id]
            self._fail_if_disk_full(task, lambda task, code=code: self._handle_exit(task, code))  # type: ignore[misc]

    def _handle_exit(self, task: Task, code: int) -> None:
        try:
            if code == LOCKED:
                raise LeaseHeld
            if code not in (0, STOPPED) and not task.folder.status().state.needs_retry:
                self._record_crash(task, code)
            self._end(task, task.folder.status())
        except LeaseHeld:  # another command was faster, or has taken over
            self.waiting[task.id] = task

    def _fail_if_disk_full(self, task: Task, action: Callable[[Task], None]) -> None:
        """Where not even a status fits on the disk, the run's failure is known to this process alone."""
        try:
            action(task)
        except OSError as error:
            if not disk.is_disk_full(error):
                raise
            message = f"the disk is full ({error}), no status could be recorded: free space and re-run"
            self._end(task, Status(State.FAILED, task.folder.status().phase, message))

    def _record_crash(self, task: Task, code: int) -> None:
        """Of a child that recorded no status. Raises LeaseHeld when another process has taken the run over."""
        phase = task.folder.status().phase
        if self.stop_request == "kill":
            status = Status(State.CANCELLED, phase, "killed on request, without a final checkpoint")
        elif code < 0:
            hint = ", perhaps out of memory" if code == -signal.SIGKILL else f", {signal.Signals(-code).name}"
            status = Status(State.LOST, phase, f"killed (signal {-code}){hint}")
        else:
            status = Status(State.FAILED, phase, f"exit code {code}")
        with Lease(task.folder.path) as lease:
            task.folder.set_status(status, lease.check)

    def _end(self, task: Task, status: Status) -> None:
        self.waiting.pop(task.id, None)
        self.statuses[task.id] = status
        self.callbacks.finished(task, status)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.stop_request = "kill" if self.stop_request else "stop"
        for _, child in self.children.values():
            child.send_signal(signal.SIGKILL if self.stop_request == "kill" else signal.SIGTERM)


def needs_work(task: Task, retry: Collection[str] = ()) -> bool:
    """Whether it is neither done nor failed in a state that is not to be retried."""
    state = task.folder.status().state
    return not task.is_done() and (not state.needs_retry or state in retry)


def prepare_run_folder(task: Task) -> None:
    """Write the resolved spec into the run folder; paths may have changed. Raises LeaseHeld."""
    if (task.folder.path / "spec.json").is_file() and task.folder.spec() == task.spec:
        return
    with Lease(task.folder.path) as lease:
        content = {"id": task.id, "label": task.label, "spec": dict(task.spec)}
        LeasedWriter(task.folder.path, lease).commit("spec.json", lambda path: write_json(path, content))


def archive_run(task: Task) -> Path | None:
    """Move a run folder to archive/, so that the run starts anew; its new path, None if there is no such folder.

    Raises UserError while another process holds the run.
    """
    if not task.folder.path.is_dir():
        return None
    try:
        Lease(task.folder.path)
    except LeaseHeld as held:
        raise UserError(f"{task.label} ({task.id}): locked by {held}; stop it first, or omit --force") from held
    archives = task.folder.path.parent.parent / "archive"
    archives.mkdir(exist_ok=True)
    target = archives / f"{task.id}.{len(list(archives.glob(f'{task.id}.*'))) + 1}"
    task.folder.path.rename(target)
    return target


def _attempts(task: Task) -> int:
    """How many times the run has been claimed; an increase shows that another process has tried."""
    claim = current_claim(task.folder.path)
    return claim.number if claim else 0
