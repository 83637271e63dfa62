"""A sweep's runs on this machine: one child process a run, at most `jobs` at once, parents before their children.

A run that another controller works on is left to it; should that one stop, the run is taken up here.
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
from bench.common.errors import UserError
from bench.common.exit_codes import LOCKED, STOPPED
from bench.common.json_files import write_json
from bench.data.cache import PROCESSES
from bench.execution.worker import missing_stages
from bench.runs.folder import RunFolder, Status
from bench.runs.lease import (
    Lease,
    LeasedWriter,
    LeaseHeld,
    active_holder,
    current_claim,
)
from bench.runs.states import State

POLL_S = 0.1

# Threads that spin while they wait save 10–17 % of a tiny step on an idle machine, but make it up to 5 times longer
# beside one busy process and 20 times beside another such run (two cores).
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}


@dataclass(frozen=True)
class Task:
    """What the launcher needs to know of a run. `spec` is resolved, as bench.config.to_dict gives it."""

    folder: RunFolder
    label: str
    spec: Mapping[str, Any]
    parents: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return self.folder.id

    def is_done(self) -> bool:
        """Whether nothing is missing of it."""
        return self.folder.status().state is State.DONE and not missing_stages(self.folder, self.spec)


class LaunchCallbacks(Protocol):
    """Hears what happens; bench.execution.progress shows it."""

    def update(self, working: Collection[Task], elsewhere: Mapping[str, str]) -> None:
        """Called all the time. `elsewhere`: label of a run → who else works on it."""
        ...

    def finished(self, task: Task, status: Status) -> None:
        """Called once a task that was not at its end from the start."""
        ...


@dataclass
class Launcher:
    """Brings tasks to an end.

    `retry`: which bad ends are tried again. On SIGINT or SIGTERM the children write checkpoints and stop, and `asked`
    becomes "stop"; on a second one they are killed.
    """

    tasks: Sequence[Task]
    watcher: LaunchCallbacks
    jobs: int = 1
    threads: int = 1
    device: str = "cpu"
    retry: Collection[str] = ()
    stop_request: Literal["", "stop", "kill"] = ""
    ends: dict[str, Status] = field(default_factory=dict)
    waiting: dict[str, Task] = field(default_factory=dict)
    children: dict[str, tuple[Task, subprocess.Popen[bytes]]] = field(default_factory=dict)

    def run(self) -> dict[str, Status]:
        """The tasks' statuses in the end, by id."""
        self.ends = {task.id: task.folder.status() for task in self.tasks if not needs_work(task, self.retry)}
        self.waiting = {task.id: task for task in self.tasks if task.id not in self.ends}
        self.claims = {run_id: _claims(task) for run_id, task in self.waiting.items()}
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            while self.children or (self.waiting and not self.stop_request):
                elsewhere = {} if self.stop_request else self._start()
                self.watcher.update([task for task, _ in self.children.values()], elsewhere)
                time.sleep(POLL_S)
                self._collect()
        finally:
            for _, child in self.children.values():
                child.terminate()
            for number, handler in before.items():
                signal.signal(number, handler)
        return {task.id: self.ends.get(task.id) or task.folder.status() for task in self.tasks}

    def _start(self) -> dict[str, str]:
        """Start what can be started; gives who else works on what."""
        elsewhere = {}
        for task in list(self.waiting.values()):
            if len(self.children) >= self.jobs:
                break
            parents = [task.folder.path.parent / parent for parent in task.parents]
            untrained = [parent.name for parent in parents if RunFolder(parent).training() is None]
            if other := active_holder(task.folder.path):
                elsewhere[task.label] = str(other)
            elif task.is_done() or (_claims(task) > self.claims[task.id] and task.folder.status().state.needs_retry):
                self._end(task, task.folder.status())  # by another controller, in the meantime
            elif ended := [parent for parent in untrained if parent in self.ends]:
                state = self.ends[ended[0]].state
                self._end(task, Status(State.PLANNED, message=f"it starts from run {ended[0]}, which is {state}"))
            elif not untrained:
                self._or_full(task, self._spawn)
        return elsewhere

    def _spawn(self, task: Task) -> None:
        """Its output goes to log.txt; as a session of its own it gets Ctrl-C through this process alone."""
        folder = task.folder.path
        try:
            prepare_run_folder(task)
        except LeaseHeld:
            return
        with (folder / "log.txt").open("ab") as log:
            child = subprocess.Popen(
                worker_command(folder, self.device, self.threads, _claims(task)),
                env=ENVIRONMENT | os.environ | {PROCESSES: str(self.jobs)},
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
            self._or_full(task, lambda task, code=code: self._settle(task, code))  # type: ignore[misc]

    def _settle(self, task: Task, code: int) -> None:
        try:
            if code == LOCKED:
                raise LeaseHeld
            if code not in (0, STOPPED) and not task.folder.status().state.needs_retry:
                self._record_death(task, code)
            self._end(task, task.folder.status())
        except LeaseHeld:  # another controller was faster, or has taken over
            self.waiting[task.id] = task

    def _or_full(self, task: Task, act: Callable[[Task], None]) -> None:
        """Do it; where not even a status fits on the disk, the run's end is known to this process alone."""
        try:
            act(task)
        except OSError as error:
            if not disk.is_disk_full(error):
                raise
            message = f"the disk is full ({error}): nothing could be recorded; make room and run the command again"
            self._end(task, Status(State.FAILED, task.folder.status().phase, message))

    def _record_death(self, task: Task, code: int) -> None:
        """Of a child that could not record its own end. Raises Held when another one has taken the run over."""
        phase = task.folder.status().phase
        if self.stop_request == "kill":
            status = Status(State.CANCELLED, phase, "killed on request, without a last checkpoint")
        elif code < 0:
            hint = ", perhaps out of memory" if code == -signal.SIGKILL else f", {signal.Signals(-code).name}"
            status = Status(State.LOST, phase, f"killed (signal {-code}){hint}")
        else:
            status = Status(State.FAILED, phase, f"ended with exit code {code}")
        with Lease(task.folder.path) as lease:
            task.folder.set_status(status, lease.check)

    def _end(self, task: Task, status: Status) -> None:
        self.waiting.pop(task.id, None)
        self.ends[task.id] = status
        self.watcher.finished(task, status)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.stop_request = "kill" if self.stop_request else "stop"
        for _, child in self.children.values():
            child.send_signal(signal.SIGKILL if self.stop_request == "kill" else signal.SIGTERM)


def needs_work(task: Task, retry: Collection[str] = ()) -> bool:
    """Neither done nor at a bad end that is not to be tried again."""
    state = task.folder.status().state
    return not task.is_done() and (not state.needs_retry or state in retry)


def worker_command(folder: Path, device: str, threads: int, claims: int) -> list[str]:
    """A run's stages in a process that stops when this one is gone, and leaves a run that got another claim since."""
    options = ["--device", device, "--threads", str(threads), "--controller", str(os.getpid()), "--claims", str(claims)]
    return [sys.executable, "-m", "bench.work", str(folder), *options]


def prepare_run_folder(task: Task) -> None:
    """The run folder with its resolved spec, as it is asked for now: paths may have moved. Raises Held."""
    if (task.folder.path / "spec.json").is_file() and task.folder.spec() == task.spec:
        return
    with Lease(task.folder.path) as lease:
        content = {"id": task.id, "label": task.label, "spec": dict(task.spec)}
        LeasedWriter(task.folder.path, lease).commit("spec.json", lambda path: write_json(path, content))


def archive_run(task: Task) -> Path | None:
    """Put a run aside, whole, so that it is done anew. Raises UserError while somebody works on it."""
    if not task.folder.path.is_dir():
        return None
    try:
        Lease(task.folder.path)
    except LeaseHeld as held:
        raise UserError(
            f"{task.label} ({task.id}): {held} works on it; stop that first, or leave out --force"
        ) from held
    archives = task.folder.path.parent.parent / "archive"
    archives.mkdir(exist_ok=True)
    target = archives / f"{task.id}.{len(list(archives.glob(f'{task.id}.*'))) + 1}"
    task.folder.path.rename(target)
    return target


def _claims(task: Task) -> int:
    """How often the run has been worked on; more than before says that somebody else tried."""
    claim = current_claim(task.folder.path)
    return claim.number if claim else 0
