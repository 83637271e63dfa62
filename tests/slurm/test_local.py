"""submitit's local executor: a sweep queued on this machine, from a snapshot of the source."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.paths import ROOT

from bench.common.json_files import read_json, read_lines
from bench.common.process import ProcessIdentity
from bench.runs.attempts import read_attempts
from bench.runs.folder import RunFolder
from bench.runs.lease import current_claim
from bench.slurm import snapshot

SPEC = """# Does it queue?
base: freesplatter
runs:  # labels that differ only in what a file name cannot hold
  - {name: A/b, seed: 0}
  - {name: A b, seed: 1}
set:
  model: {encoder.width: 48, aggregator: {blocks: 1, heads: 2}}
  train: {steps: 100, batch: 2, warmup_steps: 5, checkpoint_every: 1000}
  data: {name: procedural, training_scenes: 16, validation_scenes: 16, evaluation_scenes: 16}
  evaluation.scenes: 2
  losses.lpips: null
"""
CLUSTER = "executor: local\ncpus: 1\narray_parallelism: 1\n"


def wait(until: Callable[[], object], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.02)


def checkout(folder: Path) -> Path:
    """A copy of the source to spoil."""
    for name in snapshot.PARTS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def python(where: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = os.environ | {"PYTHONPATH": str(where), "PYTHONSAFEPATH": "1"} | environment
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)], cwd=where, env=variables, capture_output=True, text=True
    )


@pytest.mark.long
def test_a_queue_on_this_machine(tmp_path: Path) -> None:
    """One at a time; the second is taken out, the first preempted and resumed; meanwhile the checkout is spoilt."""
    source, results = checkout(tmp_path / "source"), tmp_path / "results"
    for name, text in (("queue.yaml", SPEC), ("cluster.yaml", CLUSTER)):
        (tmp_path / name).write_text(text)
    submit = ("bench.run", tmp_path / "queue.yaml", "--slurm", tmp_path / "cluster.yaml", "--results", results)
    done = python(source, *submit)
    assert done.returncode == 0 and "code: no git commit" in done.stdout, done.stderr + done.stdout
    (source / "bench" / "training" / "train.py").write_text("raise SystemExit('the checkout is edited')\n")
    sweep = results / "queue_tiny"
    first, second = runs = [RunFolder(results / "runs" / line["id"]) for line in read_lines(sweep / "runs.jsonl")]
    (submission,) = sweep.glob("slurm/*/submission.json")
    collector = ProcessIdentity.from_dict(read_json(submission)["collector"]["process"])

    wait(lambda: any(len(run.metrics()) >= 3 for run in runs), "a run at work")
    if second.metrics():  # whoever was faster
        first, second = second, first
    states = {run["id"]: run["state"] for run in json.loads(python(ROOT, "bench.status", sweep, "--json").stdout)}
    assert states == {first.id: "running", second.id: "queued"}
    done = python(ROOT, "bench.cancel", sweep, "--only", second.id)
    assert done.returncode == 0 and "cancelled" in done.stdout, done
    claim = current_claim(first.path)
    assert claim is not None
    os.kill(claim.holder.pid, signal.SIGUSR2)
    wait(lambda: len(read_attempts(first)) > 1, "the run to come back")
    ends = [(end["state"], end["message"]) for end in read_attempts(first) if "ended" in end]
    assert ends[0][0] == "preempted" and "a checkpoint is written" in ends[0][1]
    wait(lambda: not collector.is_running, "the collection")
    assert [first.status().state, second.status().state] == ["done", "cancelled"]
    steps = [record["step"] for record in read_lines(first.path / "metrics.jsonl")]
    assert steps == list(range(1, 101)), "nothing twice, nothing left out"
    assert {line["id"]: line["status"] for line in read_lines(sweep / "runs.jsonl")} == {
        first.id: "done", second.id: "cancelled"
    }  # fmt: skip
    assert (sweep / "tables" / "table.md").is_file()
    logs = {path.resolve().parent: path.read_text() for path in (sweep / "logs").glob("*.txt")}
    assert len(logs) == 2 and "process" in logs[first.path]
    status = python(ROOT, "bench.status", sweep)
    assert status.returncode == 1 and "1 × cancelled" in status.stdout and "100/100" in status.stdout, status.stdout


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    for name in ("bench/a.py", "models/b.py", "ablations/c.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name}\n")
    (folder / ".gitignore").write_text("*.log\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def test_a_clean_snapshot_is_the_commit_and_shared(repository: Path, tmp_path: Path) -> None:
    (repository / "bench" / "noise.log").write_text("ignored")
    source, folder = snapshot.take_snapshot(tmp_path, repository)
    assert source.changed == () and source.label == f"commit {(source.commit or '')[:7]}"
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == [
        "ablations/c.yaml", "bench/a.py", "code.diff", "models/b.py", "snapshot.json"
    ]  # fmt: skip
    assert (folder / "code.diff").read_text() == ""
    before = (folder / "snapshot.json").stat().st_mtime_ns
    assert snapshot.take_snapshot(tmp_path, repository) == (source, folder)
    assert (folder / "snapshot.json").stat().st_mtime_ns == before
    assert snapshot.describe_source(folder) == source, "a job that submits keeps its snapshot"


def test_a_dirty_snapshot_is_labeled_and_its_diff_gives_it_again(repository: Path, tmp_path: Path) -> None:
    clean, _ = snapshot.take_snapshot(tmp_path, repository)
    (repository / "bench" / "a.py").write_text("changed\n")
    (repository / "models" / "new.py").write_text("new\n")
    (repository / "ablations" / "c.yaml").unlink()
    source, folder = snapshot.take_snapshot(tmp_path, repository)
    assert source.digest != clean.digest and "with 3 files changed: " in source.label
    again = tmp_path / "again"
    subprocess.run(["git", "clone", "-q", repository, again], check=True)
    git(again, "apply", str(folder / "code.diff"))
    for part in snapshot.PARTS:
        contents = {p.relative_to(folder): p.read_text() for p in (folder / part).rglob("*") if p.is_file()}
        assert contents == {p.relative_to(again): p.read_text() for p in (again / part).rglob("*") if p.is_file()}
