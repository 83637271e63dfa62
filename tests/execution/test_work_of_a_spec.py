"""`python -m bench.work SPEC` for a run that is finished, or that another process holds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import SPEC
from support.paths import ROOT

from bench.common.exit_codes import DONE, LOCKED
from bench.common.json_files import write_json
from bench.config import load, to_dict
from bench.execution.launcher import Task, prepare_run_folder
from bench.execution.worker import requested_evaluations
from bench.runs.folder import RunFolder
from bench.runs.lease import Lease

CHANGED = "train.checkpoint_every=7"  # no part of a run's id


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """Of the spec's first run, prepared."""
    (tmp_path / "spec.yaml").write_text(SPEC)
    run = load(tmp_path / "spec.yaml").runs[0]
    folder = RunFolder(tmp_path / "results" / "runs" / run.id)
    prepare_run_folder(Task(folder, run.label, to_dict(run.spec)))
    return folder


def work(folder: RunFolder) -> subprocess.CompletedProcess[str]:
    """With another spec of the same id."""
    command = [sys.executable, "-m", "bench.work", "spec.yaml", CHANGED, "--only", folder.id, "--device", "cpu"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    where = folder.path.parent.parent.parent
    return subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, timeout=100)


def test_a_finished_run_keeps_its_spec(folder: RunFolder) -> None:
    results = [f"evals/{name}.json" for name in requested_evaluations(folder.spec())]
    for name in ("train.json", "profiles/cpu-1.json", *results):
        write_json(folder.path / name, {})
    before = (folder.path / "spec.json").read_bytes()
    done = work(folder)
    assert done.returncode == DONE, done.stderr
    assert (folder.path / "spec.json").read_bytes() == before


def test_a_run_that_another_process_holds_is_locked(folder: RunFolder) -> None:
    with Lease(folder.path):
        done = work(folder)
    assert done.returncode == LOCKED and "Traceback" not in done.stderr, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "locked by" in line]
    assert str(os.getpid()) in line
