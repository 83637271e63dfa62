"""The scheduler with small real processes in place of training: they hold leases, commit, get killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.common.errors import UserError
from bench.common.exit_codes import LOCKED, STOPPED
from bench.common.json_files import read_lines, write_json
from bench.execution.launcher import Launcher, Task, archive_run, needs_work, prepare_run_folder
from bench.execution.progress import RunProgress
from bench.runs.folder import RunFolder, Status
from bench.runs.lease import Lease, LeasedWriter, LeaseHeld
from bench.runs.states import State

SPEC = {"train": {"steps": 1}, "evaluation": {"protocols": ["per_image_white"]}, "views": {"overfit": 0}}
CONTROLLER = [sys.executable, __file__, "controller"]
FILES = ("train.json", "evals/per_image_white@1.json", "profiles/cpu-1.json")


def worker(folder: Path, claims: int) -> int:
    """What bench.work does, at no cost; a file named after a behavior makes it misbehave once."""
    run, stop = RunFolder(folder), [0]
    signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
    try:
        with Lease(folder) as lease:
            if lease.number > claims + 1:
                return LOCKED
            writer = LeasedWriter(folder, lease)
            run.set_status(Status("running", "train"), lease.check)
            writer.append("worked.jsonl", {"process": os.getpid()})
            if (folder / "fail").exists():
                (folder / "fail").unlink()
                run.set_status(Status("failed", "train", "as asked"), lease.check)
                return 1
            if (folder / "die").exists():
                (folder / "die").unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            while (folder / "wait").exists():
                time.sleep(0.02)
                if stop[-1]:
                    run.set_status(Status("cancelled", "train"), lease.check)
                    return STOPPED
            time.sleep(0.3)
            for name in FILES:
                writer.commit(name, lambda path: write_json(path, {}))
            run.set_status(Status("done"), lease.check)
            return 0
    except LeaseHeld:
        return LOCKED


class Recorder:
    """Callbacks that record, and act once when a run is at work."""

    def __init__(self, once: Callable[[], None] = lambda: None) -> None:
        self.ends: list[tuple[str, State]] = []
        self.elsewhere: set[str] = set()
        self.once = once

    def update(self, running: Collection[Task], elsewhere: Mapping[str, str]) -> None:
        self.elsewhere |= elsewhere.keys()
        if any(count(task) for task in running):
            self.once()
            self.once = lambda: None

    def finished(self, task: Task, status: Status) -> None:
        self.ends.append((task.label, status.state))


@pytest.fixture
def tasks(tmp_path: Path) -> list[Task]:
    return make(tmp_path)


def command(folder: Path, _device: str, _threads: int, claims: int) -> list[str]:
    return [sys.executable, __file__, "worker", str(folder), str(claims)]


def make(results: Path) -> list[Task]:
    return [Task(RunFolder(results / "runs" / (name * 12)), name, SPEC) for name in "abc"]


def behave(task: Task, how: str) -> None:
    prepare_run_folder(task)
    (task.folder.path / how).touch()


def count(task: Task) -> int:
    """How often somebody worked on it."""
    return len(read_lines(task.folder.path / "worked.jsonl"))


def states(tasks: Sequence[Task], **kwargs: Any) -> list[State]:
    kwargs.setdefault("command", command)
    return [status.state for status in Launcher(tasks, kwargs.pop("callbacks", Recorder()), **kwargs).run().values()]


def test_everything_is_done_once(tasks: list[Task]) -> None:
    recorder = Recorder()
    assert states(tasks, callbacks=recorder, jobs=2) == ["done"] * 3
    assert states(tasks) == ["done"] * 3
    assert [count(task) for task in tasks] == [1, 1, 1] and len(recorder.ends) == 3


def test_done_without_its_files_is_not_done(tasks: list[Task]) -> None:
    states(tasks[:1])
    (tasks[0].folder.path / FILES[1]).unlink()
    assert needs_work(tasks[0]) and states(tasks[:1]) == ["done"] and count(tasks[0]) == 2


def test_a_failure_is_reported_and_the_sweep_continues_and_only_retry_retries(tasks: list[Task]) -> None:
    behave(tasks[0], "fail")
    recorder = Recorder()
    assert states(tasks, callbacks=recorder) == ["failed", "done", "done"]
    assert recorder.ends[0] == ("a", "failed")
    assert states(tasks) == ["failed", "done", "done"] and states(tasks, retry=["oom"])[0] == "failed"
    assert count(tasks[0]) == 1
    assert states(tasks, retry=["failed"]) == ["done"] * 3 and count(tasks[0]) == 2


def test_a_killed_child_is_lost_and_taken_up_the_next_time(tasks: list[Task]) -> None:
    behave(tasks[1], "die")
    assert states(tasks) == ["done", "lost", "done"]
    assert tasks[1].folder.status() == Status("lost", "train", "killed (signal 9), perhaps out of memory")
    assert states(tasks) == ["done"] * 3


def test_a_child_that_cannot_even_start_has_failed(tasks: list[Task]) -> None:
    broken = [sys.executable, "-c", "import no_such_module"]
    assert (
        states(tasks[:1], command=lambda *_: broken) == ["failed"] and "exit code 1" in tasks[0].folder.status().message
    )
    assert "no_such_module" in (tasks[0].folder.path / "log.txt").read_text()


def test_parents_come_first_and_nothing_starts_from_a_failure(tasks: list[Task]) -> None:
    a, b, c = tasks
    family = [Task(c.folder, "c", SPEC, (b.id,)), Task(b.folder, "b", SPEC, (a.id,)), a]
    recorder = Recorder()
    assert states(family, callbacks=recorder, jobs=3) == ["done"] * 3
    assert [label for label, _ in recorder.ends] == ["a", "b", "c"]
    for task in family:
        assert archive_run(task)
    behave(a, "fail")
    recorder = Recorder()
    assert states(family, callbacks=recorder, jobs=3) == ["planned", "planned", "failed"]
    assert sorted(recorder.ends) == [("a", "failed"), ("b", "planned"), ("c", "planned")] and not count(b)


def test_two_controllers_do_nothing_twice(tasks: list[Task], tmp_path: Path) -> None:
    behave(tasks[2], "fail")
    others = [subprocess.Popen([*CONTROLLER, tmp_path]) for _ in range(2)]
    assert states(tasks) == ["done", "done", "failed"]
    assert [other.wait(20) for other in others] == [0, 0]
    assert [count(task) for task in tasks] == [1, 1, 1]


def test_a_run_that_another_controller_gave_up_is_taken_up_here(tasks: list[Task], tmp_path: Path) -> None:
    behave(tasks[0], "wait")
    other = subprocess.Popen([*CONTROLLER, tmp_path])
    while not count(tasks[0]):
        time.sleep(0.02)

    def give_up() -> None:
        other.send_signal(signal.SIGINT)
        assert other.wait(20) == 0 and tasks[0].folder.status().state == "cancelled"
        (tasks[0].folder.path / "wait").unlink()

    recorder = Recorder(give_up)
    assert states(tasks, callbacks=recorder) == ["done"] * 3
    assert recorder.elsewhere == {"a"} and [count(task) for task in tasks] == [2, 1, 1]


def test_interrupt_lets_children_stop_and_a_second_one_kills(tasks: list[Task]) -> None:
    behave(tasks[0], "wait")
    before = signal.getsignal(signal.SIGINT)
    recorder = Recorder(lambda: os.kill(os.getpid(), signal.SIGINT))
    launcher = Launcher(tasks, recorder, command=command)
    assert [status.state for status in launcher.run().values()] == ["cancelled", "planned", "planned"]
    assert launcher.stop_request == "stop" and signal.getsignal(signal.SIGINT) is before

    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    launcher = Launcher(tasks, Recorder(twice), command=command)
    assert launcher.run()[tasks[0].id].message.startswith("killed on request") and launcher.stop_request == "kill"


def test_left_over_variables_of_a_launcher_do_not_reach_a_run(
    tasks: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell of an earlier torchrun: the child would wait for three more ranks."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "gone", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    code = "import os, sys; print(sorted({'RANK', 'WORLD_SIZE', 'MASTER_ADDR'} & os.environ.keys())); sys.exit(3)"
    assert states(tasks[:1], command=lambda *_: [sys.executable, "-c", code]) == ["failed"]
    assert (tasks[0].folder.path / "log.txt").read_text() == "[]\n"


def test_force_puts_aside_but_not_what_is_at_work(tasks: list[Task], tmp_path: Path) -> None:
    states(tasks[:1])
    assert archive_run(tasks[0]) == tmp_path / "archive" / f"{tasks[0].id}.1" and not tasks[0].folder.path.exists()
    assert archive_run(tasks[0]) is None
    states(tasks[:1])
    with Lease(tasks[0].folder.path), pytest.raises(UserError, match=f"process {os.getpid()} .* --force"):
        archive_run(tasks[0])
    assert archive_run(tasks[0]) == tmp_path / "archive" / f"{tasks[0].id}.2"
    assert (tmp_path / "archive" / f"{tasks[0].id}.2" / "train.json").is_file()


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        sys.exit(worker(Path(sys.argv[2]), int(sys.argv[3])))
    Launcher(make(Path(sys.argv[2])), Recorder(), command=command).run()


def test_progress_names_every_stage() -> None:
    assert str(RunProgress(0, 20, None, None, "")) == "starting"
    assert str(RunProgress(8, 20, 1.5, 7.2, "train")) == "step 8/20  loss 1.5000  0:00:07 remaining"
    assert str(RunProgress(20, 20, 1.5, 0.0, "profile")) == "profile"
    assert str(RunProgress(20, 20, 1.5, 0.0, "")) == "finishing"  # done, and the process has not ended yet
