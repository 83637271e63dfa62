"""Unusual environments: each command does its work, or says in one line what is wrong and what to do, with exit 2."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.commands import SPEC
from support.restrictions import run_restricted

from bench.common.environment import rank_and_world_size
from bench.common.errors import UserError
from bench.config import load, to_dict
from bench.execution.launcher import Task, prepare_run_folder
from bench.runs.folder import RunFolder

LABELS = SPEC.replace(
    "grid: {model.encoder.patch: [4, 8]}",
    'runs: [{name: "größer 大", model.encoder.patch: 4}, {name: "² 🙂", seed: 1}]',
)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("specs") / "sweep.yaml"
    path.write_text(LABELS, encoding="utf-8")
    return path


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.run", *arguments]
    return subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", env=os.environ | variables, timeout=300
    )


def assert_one_line(done: subprocess.CompletedProcess[str], *texts: str) -> None:
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(errors) == 1 and "Traceback" not in done.stderr, done
    assert all(text in errors[0] for text in texts), errors


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONIOENCODING": "latin-1"}])
def test_an_output_that_cannot_encode_labels(spec: Path, tmp_path: Path, variables: dict[str, str]) -> None:
    table = run(str(spec), "--dry-run", "--results", str(tmp_path), **variables)
    assert table.returncode == 0 and "gr" in table.stdout and "Traceback" not in table.stderr, table
    rows = run(str(spec), "--dry-run", "--json", "--results", str(tmp_path), **variables)
    assert [row["label"] for row in json.loads(rows.stdout)] == ["größer 大", "² 🙂"]


def test_a_reader_that_closes_the_pipe(spec: Path, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "bench.run", str(spec), "--dry-run", "--json", "--results", str(tmp_path)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=300)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_home_that_cannot_be_written_to(spec: Path, tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    home = {"HOME": str(tmp_path / "home"), "EAD_BENCH_CACHE": ""}
    assert run(str(spec), "--dry-run", "--results", str(tmp_path / "r"), **home).returncode == 0
    assert_one_line(run(str(spec), "--results", str(tmp_path / "r"), **home), "EAD_BENCH_CACHE")


def test_a_user_without_a_home(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, pwd; os.environ.pop('HOME', None); os.environ.pop('EAD_BENCH_CACHE', None)\n"
        "def nobody(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = nobody\n"
        "from bench.common.paths import cache_dir; print(cache_dir())"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == str(tmp_path / f"ead-bench-{os.getuid()}"), done


def test_a_results_folder_without_hard_links_is_refused(spec: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    done = run_restricted("without links", results, "bench.run", str(spec), "--results", str(results))
    assert_one_line(done, str(results), "no hard links", "--results DIR")
    assert not list(results.iterdir())


def test_variables_of_a_launcher() -> None:
    """WORLD_SIZE without RANK is no process of torchrun; values that no launcher sets are refused."""
    assert rank_and_world_size({"WORLD_SIZE": "1"}) == rank_and_world_size({"RANK": "3"}) == (0, 1)
    for rank, world in (("4", "4"), ("-1", "2"), ("one", "2"), ("0", "0"), ("", "2")):
        with pytest.raises(UserError, match="unset RANK WORLD_SIZE"):
            rank_and_world_size({"RANK": rank, "WORLD_SIZE": world})


@pytest.fixture(scope="module")
def folder(spec: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    (run, _) = load(spec).runs
    folder = RunFolder(tmp_path_factory.mktemp("results") / "runs" / run.id)
    prepare_run_folder(Task(folder, run.label, to_dict(run.spec)))
    return folder


@pytest.mark.long
@pytest.mark.parametrize("rank", [0, 2])
def test_left_over_variables_of_torchrun_are_named_and_sigterm_ends_the_wait(folder: RunFolder, rank: int) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    variables = {"RANK": str(rank), "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.work", str(folder.path), "--threads", "1"],
        env=os.environ | variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout
    try:
        started = time.monotonic()
        lines = iter(process.stdout.readline, "")
        line = next(line for line in lines if "waiting for" in line)
        assert time.monotonic() - started < 60
        awaited = "ranks 1, 2, 3 of 4" if rank == 0 else f"the store at 127.0.0.1:{port}"
        assert awaited in line and "WORLD_SIZE=4" in line and "unset RANK WORLD_SIZE" in line
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def test_a_world_without_an_address_is_refused(folder: RunFolder) -> None:
    environment = os.environ | {"RANK": "1", "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "bench.work", str(folder.path), "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100)
    assert_one_line(done, "MASTER_ADDR", "unset RANK WORLD_SIZE")
