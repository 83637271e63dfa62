"""A sweep's runs on this machine: one child process a run, at most `jobs` at once, parents before their children."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bench import lease
from bench.record import RunFolder, State, Status, run_folder, runs_folder, write_json
from bench.work import BUSY

if TYPE_CHECKING:
    from bench.spec import Run

POLL = 0.2  # seconds
ENDED_BADLY: tuple[State, ...] = ("failed", "oom", "nan")  # not tried again unless asked


@dataclass
class Launcher:
    """Brings runs to an end. `report` hears of every run that ended, `tick` is called all the time."""

    results: Path
    device: str
    threads: int
    jobs: int = 1
    retry: Sequence[str] = ()
    report: Callable[[Run, Status], None] = lambda run, status: None
    tick: Callable[[dict[str, str]], None] = lambda working: None
    children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def run(self, runs: Sequence[Run]) -> dict[str, Status]:
        """Each run's status at the end. On KeyboardInterrupt the children write checkpoints and stop first."""
        waiting = {run.id: run for run in runs if not self.ended(run)}
        names = dict(waiting)
        try:
            while waiting or self.children:
                self._start(waiting)
                self._collect(names, waiting)
                self.tick({run_id: names[run_id].label for run_id in self.children})
                time.sleep(POLL)
        except KeyboardInterrupt:
            self._stop()
            raise
        return {run.id: run_folder(self.results, run.id).status() for run in runs}

    def ended(self, run: Run) -> bool:
        """Done, or ended badly and not to be retried."""
        state = run_folder(self.results, run.id).status().state
        return state == "done" or (state in ENDED_BADLY and state not in self.retry)

    def _start(self, waiting: dict[str, Run]) -> None:
        for run in list(waiting.values()):
            if len(self.children) >= self.jobs:
                return
            folder = run_folder(self.results, run.id)
            parents = [run_folder(self.results, parent).status().state for parent in run.parents]
            if any(state in ENDED_BADLY for state in parents):
                folder.set_status(Status("failed", "start", f"a run that it starts from ended {parents}"))
                self.report(waiting.pop(run.id), folder.status())
            elif all(state == "done" for state in parents) and lease.holder(folder.path) is None:
                if folder.status().state == "done":  # by another controller, meanwhile
                    self.report(waiting.pop(run.id), folder.status())
                else:
                    self.children[run.id] = self._spawn(folder)
                    del waiting[run.id]

    def _spawn(self, folder: RunFolder) -> subprocess.Popen[bytes]:
        """Its output goes to log.txt; it is a session of its own, so that Ctrl-C reaches it through us alone."""
        command = [sys.executable, "-m", "bench.work", str(folder.path)]
        command += ["--device", self.device, "--threads", str(self.threads)]
        with (folder.path / "log.txt").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)

    def _collect(self, names: dict[str, Run], waiting: dict[str, Run]) -> None:
        for run_id, child in list(self.children.items()):
            if (code := child.poll()) is None:
                continue
            del self.children[run_id]
            folder = run_folder(self.results, run_id)
            if code == BUSY:
                waiting[run_id] = names[run_id]
                continue
            if folder.status().state in ("planned", "running"):
                why = f"killed by signal {-code}, perhaps for want of memory" if code < 0 else f"ended with code {code}"
                folder.set_status(Status("lost", folder.status().phase, f"its process was {why}"))
            self.report(names[run_id], folder.status())

    def _stop(self) -> None:
        for child in self.children.values():
            child.send_signal(signal.SIGTERM)
        for child in self.children.values():
            child.wait()


def prepare(runs: Sequence[Run], results: Path) -> None:
    """A folder with its resolved spec for each run; those that exist stay."""
    from bench.spec import to_dict

    for run in runs:
        path = run_folder(results, run.id).path / "spec.json"
        if not path.is_file():
            write_json(path, {"id": run.id, "label": run.label, "spec": to_dict(run.spec)})


def archive(runs: Sequence[Run], results: Path) -> None:
    """Move the folders of runs aside, so that they are run again; nothing is deleted."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for run in runs:
        path = run_folder(results, run.id).path
        if path.exists():
            target = runs_folder(results) / "archived" / f"{run.id}-{stamp}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)
