"""States of runs: from their folders first, then from SLURM's clients, which are scripts on PATH here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from threading import Timer

import pytest
from support import commands
from support.paths import ROOT

import bench.cancel
import bench.status
from bench.common.errors import UserError
from bench.common.exit_codes import STOPPED
from bench.common.json_files import write_json
from bench.common.process import ProcessIdentity
from bench.config import load
from bench.execution.launcher import prepare_run_folder
from bench.execution.session import task_of
from bench.runs.attempts import begin_attempt, finish_attempt, read_attempts
from bench.runs.folder import RunFolder, Status
from bench.runs.lease import Lease, LeasedWriter, current_claim
from bench.runs.states import State
from bench.slurm import context, job, postmortem, queue, run_state
from bench.slurm.collect import record_final_status

RUN = "0123456789ab"
DEAD = {"host": "gpu07", "space": "elsewhere", "pid": 1, "started": "1", "job": "5", "token": "t", "released": False}


class Scheduler:
    """Scripts on PATH that answer as SLURM's clients do, and a list of who was called."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.calls = folder, folder / "calls"
        folder.mkdir()
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        for name in ("squeue", "sacct", "scontrol", "sinfo", "scancel"):
            self.answers(name, "", 1, "Unable to contact slurm controller (connect failure)")

    def answers(self, name: str, output: str, code: int = 0, error: str = "") -> None:
        text = f"#!/bin/sh\necho {name} \"$@\" >> {self.calls}\ncat <<'END'\n{output}\nEND\n"
        (self.folder / name).write_text(f"{text}echo '{error}' >&2\nexit {code}\n")
        (self.folder / name).chmod(0o755)

    def called(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.is_file() else []


@pytest.fixture
def scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    return Scheduler(tmp_path / "bin", monkeypatch)


class Lab:
    """A sweep of one run whose job is 5_0."""

    def __init__(self, folder: Path) -> None:
        self.results, self.sweep = folder / "results", folder / "results" / "sweep_tiny"
        self.run = RunFolder(self.results / "runs" / RUN)
        self.sweep.mkdir(parents=True)
        (self.sweep / "runs.jsonl").write_text(json.dumps({"id": RUN, "label": "patch 8", "steps": 60}) + "\n")
        write_json(self.run.path / "job.json", {"job": "5_0", "executor": "slurm", "submission": "s"})
        records = [{"step": i, "loss": 1 / i, "step_time_ms": 500.0} for i in range(1, 21)]
        (self.run.path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))

    def abandoned(self) -> None:
        """By a process on another host, a while ago."""
        path = self.run.path / "lease" / "00000001.json"
        write_json(path, DEAD)
        os.utime(path, (1, 1))

    def state(self) -> run_state.RunState:
        (run,) = run_state.query_sweep(self.sweep, self.results).runs
        return run


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_a_run_at_work_is_known_without_slurm(lab: Lab, scheduler: Scheduler) -> None:
    lab.run.set_status(Status("running", "train"))
    with Lease(lab.run.path):
        run = lab.state()
    assert (run.state, run.step, run.steps, run.steps_per_s, run.remaining_s) == (
        "running",
        20,
        60,
        2.0,
        20.0,
    )
    assert run.loss == 0.05 and scheduler.called() == []


@pytest.mark.parametrize("state", ["done", "failed", "oom", "nan"])
def test_an_end_on_file_is_the_end(lab: Lab, scheduler: Scheduler, state: State) -> None:
    lab.run.set_status(Status(state, "train", "so it went"))
    assert lab.state().state == state and scheduler.called() == []


@pytest.mark.parametrize(("before", "squeue", "state", "message"), [
    ("planned", "5_0|PENDING|Resources|", "queued", "Resources"),
    ("planned", "5_0|PENDING|Dependency|", "queued", "Dependency"),
    ("planned", "5_0|RUNNING|None|gpu03", "starting", "SLURM: running"),
    ("running", "5_0|PENDING|BeginTime|", "queued", "BeginTime"),
    ("running", "5_0|RUNNING|None|gpu03", "starting", "running"),
    ("timeout", "5_0|PENDING|BeginTime|", "queued", "timeout: limit; BeginTime"),
    ("preempted", "5_0|CONFIGURING|None|gpu03", "starting", "preempted: limit; SLURM: configuring"),
    ("running", "5_0|NODE_FAIL|NodeDown|gpu03", "node_fail", "SLURM: node_fail (NodeDown)"),
    ("running", "5_0|CANCELLED|None|gpu03", "cancelled", "SLURM: cancelled"),
    ("running", "5_0|TIMEOUT|TimeLimit|gpu03", "timeout", "SLURM: timeout"),
    ("running", "5_0|OUT_OF_MEMORY|OutOfMemory|gpu03", "oom", "SLURM: out_of_memory"),
    ("running", "5_0|FAILED|NonZeroExitCode|gpu03", "lost", "SLURM: failed"),
    ("running", "5_0|COMPLETED|None|gpu03", "lost", "SLURM: completed"),
    ("running", "5_1|RUNNING|None|gpu03", "lost", "no process is running it"),
    ("planned", "5_1|RUNNING|None|gpu03", "planned", "job 5_0 no longer exists"),
    ("timeout", "5_0|FAILED|NonZeroExitCode|gpu03", "timeout", "limit"),
    ("cancelled", "5_0|CANCELLED|None|gpu03", "cancelled", "limit"),
])  # fmt: skip
def test_files_and_queue_together(
    lab: Lab, scheduler: Scheduler, before: State, squeue: str, state: str, message: str
) -> None:
    lab.run.set_status(Status(before, "train", "" if before in ("planned", "running") else "limit"))
    lab.abandoned()
    scheduler.answers("squeue", squeue)
    run = lab.state()
    assert (run.state, message in run.message) == (state, True), run


def test_accounting_is_asked_for_what_the_queue_forgot(lab: Lab, scheduler: Scheduler) -> None:
    lab.run.set_status(Status("running", "train"))
    lab.abandoned()
    scheduler.answers("squeue", "", 1, "slurm_load_jobs error: Invalid job id specified")
    scheduler.answers("sacct", "5_0|FAILED|gpu03\n5_0.batch|FAILED|gpu03\n5_0.0|OUT_OF_MEMORY|gpu03")
    run = lab.state()
    assert (run.state, run.unrecorded) == ("oom", "oom")
    assert [line.split()[0] for line in scheduler.called()] == ["squeue", "sacct"]


def test_nobody_answers(lab: Lab, scheduler: Scheduler, capsys: pytest.CaptureFixture[str]) -> None:
    lab.run.set_status(Status("running", "train"))
    lab.abandoned()
    run = lab.state()
    assert run.state == "lost" and run.unrecorded is None and "SLURM does not answer" in run.message
    assert bench.status.main([str(lab.sweep)]) == 1
    assert "SLURM does not answer" in capsys.readouterr().out


def test_array_elements_of_accounting() -> None:
    assert queue.array_elements("5_[0-2,7%3]") == ["5_0", "5_1", "5_2", "5_7"] and queue.array_elements("5") == ["5"]


@pytest.mark.long
def test_what_only_slurm_knows_is_written_down_once(lab: Lab, scheduler: Scheduler) -> None:
    lab.run.set_status(Status("running", "train"))
    lab.abandoned()
    scheduler.answers("squeue", "5_0|NODE_FAIL|NodeDown|gpu03")
    record_final_status(lab.state(), lab.results)
    assert lab.run.status() == Status("node_fail", "train", "SLURM: node_fail (NodeDown)")
    again = current_claim(lab.run.path)
    record_final_status(lab.state(), lab.results)
    assert current_claim(lab.run.path) == again


def test_failures_are_grouped_by_what_they_have_in_common(
    lab: Lab, scheduler: Scheduler, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, memory = [], "OutOfMemoryError: tried to allocate"
    ended = [("oom", f"{memory} 2.50 GiB"), ("oom", f"{memory} 1.25 GiB"), ("failed", "ValueError: bad"), ("done", "")]
    for i, (state, message) in enumerate(ended):
        folder = RunFolder(lab.results / "runs" / f"{i:012d}")
        folder.set_status(Status(state, "train", message, f"Traceback\n  in step {i}\n{message}"))  # type: ignore[arg-type]
        lines.append(json.dumps({"id": folder.id, "label": f"run {i}", "steps": 60}) + "\n")
    (lab.sweep / "runs.jsonl").write_text("".join(lines))
    assert bench.status.main([str(lab.sweep)]) == 1
    output = capsys.readouterr().out
    assert "2 × oom in train: OutOfMemoryError: tried to allocate 2.50 GiB\n  run 0; run 1\n    Traceback" in output
    assert "1 × failed in train: ValueError: bad" in output and "2 oom, 1 failed, 1 done" in output


def test_following_ends_with_the_last_run(lab: Lab, scheduler: Scheduler, capsys: pytest.CaptureFixture[str]) -> None:
    lab.run.set_status(Status("running", "train"))
    lab.abandoned()
    scheduler.answers("squeue", "5_0|RUNNING|None|gpu03")

    Timer(0.5, lab.run.set_status, [Status("done")]).start()
    assert bench.status.main([str(lab.sweep), "--follow", "--every", "0.1"]) == 0
    assert "starting" in (output := capsys.readouterr().out) and "1 done" in output


def test_no_sweep_is_bad_input(tmp_path: Path) -> None:
    for main in (bench.status.main, bench.cancel.main):
        with pytest.raises(UserError, match=r"no runs\.jsonl"):
            main([str(tmp_path)])


@pytest.mark.long
def test_a_local_sweep_is_followed_from_its_first_second_to_its_end(tmp_path: Path) -> None:
    """One run at a time: what has not started waits in the command; without a process nothing waits."""
    (tmp_path / "local.yaml").write_text(commands.SPEC)
    results, sweep = tmp_path / "results", tmp_path / "results" / "local_tiny"
    options = ["--results", str(results), "--no-report", "--threads", "1", "--device", "cpu"]
    run = subprocess.Popen([sys.executable, "-m", "bench.run", str(tmp_path / "local.yaml"), *options], cwd=ROOT)
    deadline = time.monotonic() + 200
    while not (sweep / "runs.jsonl").is_file():
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    states: list[tuple[State, ...]] = []
    while run.poll() is None:
        assert time.monotonic() < deadline
        now = tuple(line.state for line in run_state.query_sweep(sweep, results).runs)
        states += [now] if now not in states else []
        time.sleep(0.05)
    assert run.returncode == 0 and states[-1] == ("done", "done")
    assert any("running" in now and "queued" in now for now in states), states
    assert not any(all(state in ("planned", "done") for state in now) for now in states[:-1]), states

    command = [sys.executable, "-m", "bench.status", str(sweep), "--follow"]
    done = subprocess.run(command, cwd=ROOT, timeout=60, capture_output=True, text=True)
    assert (
        done.returncode == 0 and "2 done" in done.stdout and "restarts" not in done.stdout
    )  # no queue, no columns of it


@pytest.mark.parametrize("module", ["bench.status", "bench.cancel", "bench.slurm.postmortem"])
def test_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_cancelling_a_waiting_run_is_recorded(
    lab: Lab, scheduler: Scheduler, capsys: pytest.CaptureFixture[str]
) -> None:
    scheduler.answers("squeue", "5_0|PENDING|Resources|")
    with pytest.raises(UserError, match="scancel: Unable to contact"):
        bench.cancel.main([str(lab.sweep)])
    assert lab.run.status().state == "planned"
    scheduler.answers("scancel", "")
    assert bench.cancel.main([str(lab.sweep), "--only", "PATCH*"]) == 0
    assert "scancel 5_0" in scheduler.called() and lab.run.status().state == "cancelled"
    with pytest.raises(UserError, match="matches no run"):
        bench.cancel.main([str(lab.sweep), "--only", "other"])


@pytest.fixture
def other_process() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def on_a_workstation(lab: Lab, process: ProcessIdentity) -> None:
    """The run's job is a process of this machine."""
    content = {"job": str(process.pid), "executor": "local", "submission": "s", "process": asdict(process)}
    write_json(lab.run.path / "job.json", content)


def test_cancelling_reaches_a_workstations_process(lab: Lab, other_process: subprocess.Popen[bytes]) -> None:
    on_a_workstation(lab, ProcessIdentity.of(other_process.pid))
    assert lab.state().state == "queued"
    assert bench.cancel.main([str(lab.sweep)]) == 0
    assert other_process.wait(5) == -signal.SIGTERM and lab.run.status().state == "cancelled"


def test_a_process_that_got_the_jobs_pid_is_not_signaled(
    lab: Lab, other_process: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    reused_pid = replace(ProcessIdentity.of(other_process.pid), started="1")
    on_a_workstation(lab, reused_pid)
    assert (lab.state().state, lab.state().message) == ("planned", f"job {reused_pid.pid} no longer exists")
    assert bench.cancel.main([str(lab.sweep)]) == 0 and "no run is in the queue" in capsys.readouterr().out
    assert other_process.poll() is None
    with pytest.raises(UserError, match=r"sweep\.json"):  # collecting begins at once: nothing to wait for
        job.CollectJob(str(lab.sweep), str(lab.results), False, (reused_pid,))()


def test_a_pid_of_another_host_is_not_signaled(lab: Lab, other_process: subprocess.Popen[bytes]) -> None:
    on_a_workstation(lab, replace(ProcessIdentity.of(other_process.pid), host="node17", space="another boot"))
    assert "cannot be queried from this host" in lab.state().message
    lab.run.set_status(Status("running", "train"))
    with Lease(lab.run.path), pytest.raises(UserError, match=r"patch 8 \(process \d+ on node17\).* on the host"):
        bench.cancel.main([str(lab.sweep)])
    assert other_process.poll() is None


SCONTROL = "JobId=5 JobName=x JobState={state} EndTime={end} PreemptTime={preempt} Restarts=0"
LATER, NOW = "2038-01-01T00:00:00", "2001-01-01T00:00:00"


@pytest.mark.parametrize(("stop_request", "log_line", "answer", "state"), [
    ("SIGUSR2", "", {"end": NOW}, "timeout"),
    ("SIGUSR2", "", {"end": LATER}, "preempted"),
    ("SIGUSR2", "", {"end": NOW, "preempt": NOW}, "preempted"),
    ("SIGUSR2", "", None, "preempted"),  # SLURM does not answer; by the clock the limit is an hour away
    ("SIGTERM", "", {"state": "COMPLETING"}, "cancelled"),
    ("SIGTERM", "slurmstepd: error: *** STEP 5.0 ON gpu01 CANCELLED AT 2026 ***", {"state": "COMPLETING"}, "cancelled"),
    ("SIGTERM", "slurmstepd: error: *** STEP 5.0 ON gpu01 CANCELLED AT 2026 DUE TO TIME LIMIT ***", None, "timeout"),
    ("SIGTERM", "*** STEP 5.0 ON gpu01 CANCELLED AT 2026 DUE TO PREEMPTION ***", None, "preempted"),
    ("SIGTERM", "*** STEP 5.0 ON gpu01 CANCELLED AT 2026 DUE TO NODE FAILURE, SEE LOG ***", None, "node_fail"),
    ("SIGTERM", "*** STEP 5.0 ON gpu01 CANCELLED AT 2026 DUE TO JOB REQUEUE ***", None, "preempted"),
    ("SIGTERM", "slurmstepd: error: StepId=5.0 exceeded memory limit (2 > 1), being killed", None, "oom"),
    ("SIGTERM", "slurmstepd: error: Detected 1 oom_kill event in StepId=5.0.", None, "oom"),
])  # fmt: skip
def test_why_a_run_was_asked_to_stop(
    tmp_path: Path, scheduler: Scheduler, stop_request: str, log_line: str, answer: Mapping[str, str] | None, state: str
) -> None:
    log = tmp_path / "5_0_log.err"
    earlier = f"{context.JOB_START_MARKER} 5 start 0\nslurmstepd: error: Detected 1 oom_kill event\n"
    log.write_text(f"{earlier}{context.JOB_START_MARKER} 5 start 1\n{log_line}\n")
    if answer is not None:
        scheduler.answers(
            "scontrol", SCONTROL.format(**{"state": "RUNNING", "end": LATER, "preempt": "None", **answer})
        )
    assert context.SlurmExecutionContext(60, 180, time.time(), log).classify_stop(stop_request)[0] == state


def test_an_attempt_that_vanished_is_classified_by_its_node(tmp_path: Path, scheduler: Scheduler) -> None:
    job_context = context.SlurmExecutionContext(60, 180, 0.0, tmp_path / "none")
    assert job_context.classify_missing_exit("gpu03")[0] == "lost"
    for state, expected in (("idle", "lost"), ("down*", "node_fail"), ("drain", "node_fail")):
        scheduler.answers("sinfo", state)
        assert job_context.classify_missing_exit("gpu03")[0] == expected
    for i in (1, 2):
        with Lease(tmp_path / "run") as lease:
            writer = LeasedWriter(tmp_path / "run", lease)
            begin_attempt(writer, job_context.classify_missing_exit)
            if i == 2:
                finish_attempt(writer, Status("done"))
    assert [end["state"] for end in read_attempts(RunFolder(tmp_path / "run"))] == ["node_fail", "done"]


class Aftermath(Lab):
    """A step of job 5 that has ended badly, with its messages and plan."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder)
        self.submission = folder / "submission"
        (self.submission / "jobs").mkdir(parents=True)
        write_json(self.submission / "plan.json",
                   {"runs": str(self.results / "runs"), "groups": [[RUN]], "max_crash_requeues": 2})  # fmt: skip
        for name, value in {"SLURM_JOB_ID": "5", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "0"}.items():
            monkeypatch.setenv(name, value)

    def killed(self, state: State = "running", message: str = "") -> None:
        """In training, without a recorded status or with the one that the first rank recorded."""
        with Lease(self.run.path) as lease:
            begin_attempt(LeasedWriter(self.run.path, lease), lambda host: ("lost", host))
            self.run.set_status(Status(state, "train", message))

    def log(self, *lines: str) -> None:
        (self.submission / "jobs" / "5_0_0_log.err").write_text(
            "\n".join([f"{context.JOB_START_MARKER} 5 start 0", *lines])
        )

    def after(self, code: int = 137) -> Status:
        assert postmortem.main([str(self.submission), "0", "0", str(code)]) in (0, 1)
        return self.run.status()


@pytest.fixture
def aftermath(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheduler: Scheduler) -> Aftermath:
    return Aftermath(tmp_path, monkeypatch)


def test_a_killed_run_goes_back_into_the_queue_a_few_times(aftermath: Aftermath, scheduler: Scheduler) -> None:
    scheduler.answers("scontrol", "")
    for attempt in (1, 2, 3):
        aftermath.killed()
        aftermath.log("srun: error: gpu03: task 0: Killed")
        assert aftermath.after() == Status("lost", "train", "killed (gpu03: task 0: Killed)")
        assert scheduler.called().count("scontrol requeue 5") == min(attempt, 2)


def test_a_controller_that_is_down_is_asked_again(
    aftermath: Aftermath, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postmortem, "RETRY_S", 0.5)
    Timer(0.3, scheduler.answers, ["scontrol", ""]).start()
    aftermath.killed()
    aftermath.log("srun: error: gpu03: task 0: Killed")
    assert aftermath.after().state == "lost"
    assert scheduler.called().count("scontrol requeue 5") == 2


def test_out_of_memory_is_reported_and_not_requeued(aftermath: Aftermath, scheduler: Scheduler) -> None:
    aftermath.killed()
    aftermath.log("slurmstepd: error: Detected 1 oom_kill event in StepId=5.0.", "srun: error: gpu03: task 0: Killed")
    assert aftermath.after().state == "oom" and scheduler.called() == []
    assert read_attempts(aftermath.run)[-1]["state"] == "oom"


def test_the_rank_that_failed_first_is_heard(aftermath: Aftermath, scheduler: Scheduler) -> None:
    aftermath.killed("lost", "another rank exited: Connection closed by peer")
    aftermath.log("srun: error: gpu03: task 2: Exited with exit code 1")
    status = Status("oom", "train", "rank 2 on gpu03: OutOfMemoryError: CUDA out of memory", "Traceback")
    job.failure_file(aftermath.submission / "jobs", "5_0", 2).write_text(json.dumps(asdict(status)))
    assert aftermath.after(1) == status and scheduler.called() == []


def test_a_job_that_never_began_is_a_failure_with_its_last_lines(aftermath: Aftermath) -> None:
    aftermath.log("module: command not found", "srun: error: gpu03: task 0: Exited with exit code 127")
    status = aftermath.after(127)
    assert (status.state, status.phase) == ("failed", "start") and "module: command not found" in status.trace


def test_a_submission_that_was_cut_short_leaves_the_run_to_the_next(aftermath: Aftermath) -> None:
    aftermath.log("RuntimeError: Waited for 60 seconds but could not find submitted jobs in path:")
    assert aftermath.after(1) == Status()


@pytest.mark.parametrize("state", ["done", "failed", "cancelled", "timeout", "preempted"])
def test_a_recorded_status_stays(aftermath: Aftermath, state: State) -> None:
    aftermath.killed(state, "recorded")
    aftermath.log("slurmstepd: error: Detected 1 oom_kill event in StepId=5.0.")
    assert aftermath.after() == Status(state, "train", "recorded")


def test_a_later_start_of_the_job_may_take_the_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURM has given the node up; what lives on there is refused."""
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    with Lease(tmp_path) as cut_off:
        monkeypatch.setenv("SLURM_JOB_ID", "6")
        assert not current_claim(tmp_path).free  # type: ignore[union-attr]
        monkeypatch.setenv("SLURM_JOB_ID", "5")
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        with Lease(tmp_path) as mine:
            mine.check()
            with pytest.raises(Exception, match="was taken over"):
                cut_off.check()


PATIENT = """
import sys
from bench.execution import direct
from bench.execution.endings import ExecutionContext

class Patient(ExecutionContext):
    patient = True

sys.exit(direct.main(sys.argv[1:], Patient()))
"""


def test_signals_that_arrive_together_are_one_request(tmp_path: Path) -> None:
    """Preemption sends SIGTERM and the user's signal at once: the step at hand still ends with its checkpoint."""
    (tmp_path / "spec.yaml").write_text(commands.SPEC.replace("steps: 60", "steps: 100000"))
    task = task_of(load(tmp_path / "spec.yaml").runs[0], tmp_path)
    prepare_run_folder(task)
    worker = subprocess.Popen([sys.executable, "-c", PATIENT, str(task.folder.path), "--threads", "1"], cwd=ROOT)
    deadline = time.monotonic() + 120
    while len(task.folder.metrics()) < 3:
        assert worker.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    worker.send_signal(signal.SIGTERM)
    worker.send_signal(signal.SIGUSR2)
    assert worker.wait(60) == STOPPED
    message = task.folder.status().message
    assert "SIGTERM" in message and "SIGUSR2" in message and "stopped after step" in message
