"""Several processes of one run give the run of one: same losses, same weights, to float tolerance."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.paths import ROOT

from bench.common.environment import local_rank, rank_and_world_size
from bench.common.json_files import read_json
from bench.config import load, to_dict
from bench.execution.launcher import Task, prepare_run_folder
from bench.runs.folder import RunFolder
from bench.runtime.distributed import (
    BUCKET,
    SINGLE_PROCESS,
    ProcessGroupContext,
    gradient_buckets,
)

SPEC = """# Do ranks add up?
base: freesplatter
set:
  model: {encoder.width: 48, aggregator: {blocks: 1, heads: 2}}
  train: {steps: 24, batch: 4, warmup_steps: 5, checkpoint_every: 8, geometry_first: 0.5}
  data: {name: procedural, training_scenes: 16, validation_scenes: 16, evaluation_scenes: 16}
  evaluation.scenes: 2
  losses.lpips: null
"""


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("spec")
    (folder / "ranks.yaml").write_text(SPEC)
    (run,) = load(folder / "ranks.yaml").runs
    return {"id": run.id, "spec": to_dict(run.spec)}


def new(task: dict[str, Any], results: Path, **train: Any) -> RunFolder:
    spec = task["spec"] | {"train": task["spec"]["train"] | train}
    folder = RunFolder(results / "runs" / task["id"])
    prepare_run_folder(Task(folder, "ranks", spec))
    return folder


def step(world: int, folder: RunFolder, how: str) -> list[subprocess.Popen[str]]:
    """One process a rank, as torchrun or srun would start them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "bench.work", str(folder.path), "--threads", "1"]
    processes = []
    for rank in range(world):
        variables = {
            "torchrun": {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1",
                         "MASTER_PORT": port},
            "srun": {"SLURM_PROCID": rank, "SLURM_STEP_NUM_TASKS": world, "SLURM_LOCALID": rank, "SLURM_JOB_ID": 7,
                     "SLURM_STEP_NUM_NODES": 2, "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1"},
        }[how]  # fmt: skip
        environment = (
            os.environ | {key: str(value) for key, value in variables.items()} | {"OMP_WAIT_POLICY": "PASSIVE"}
        )
        output = subprocess.PIPE
        processes.append(subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True))
    return processes


def finish(processes: list[subprocess.Popen[str]]) -> list[str]:
    outputs = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    return outputs


def losses(folder: RunFolder) -> torch.Tensor:
    return torch.tensor([[r["loss"], r["loss/points"], r["gradient_norm/encoder"]] for r in folder.metrics()])


@pytest.fixture(scope="module")
def alone(task: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = new(task, tmp_path_factory.mktemp("alone"))
    finish(step(1, folder, "torchrun"))
    return folder


@pytest.mark.parametrize(("world", "how"), [(2, "srun"), pytest.param(4, "torchrun", marks=pytest.mark.long)])
def test_ranks_give_the_run_of_one(
    world: int, how: str, task: dict[str, Any], alone: RunFolder, tmp_path: Path
) -> None:
    folder = new(task, tmp_path)
    finish(step(world, folder, how))
    torch.testing.assert_close(losses(folder), losses(alone), rtol=2e-3, atol=1e-5)
    ours, theirs = (load_file(each.path / "weights.safetensors") for each in (folder, alone))
    assert max(float((ours[key] - theirs[key]).abs().max()) for key in theirs) < 2e-3
    assert folder.status().state == "done" and not list((folder.path / "rendezvous").glob("*.json"))

    profile = folder.profiles()[f"cpu-{world}"]
    assert len(profile["ranks"]) == world
    assert profile["step_time_ms"] == max(each["step_time_ms"] for each in profile["ranks"])
    (means, others) = (next(iter(each.evaluations().values()))["means"] for each in (folder, alone))
    assert means["psnr"] == pytest.approx(others["psnr"], abs=0.05)


@pytest.mark.long
def test_a_stop_of_one_rank_stops_all_at_one_step_and_resumes(
    task: dict[str, Any], alone: RunFolder, tmp_path: Path
) -> None:
    folder = new(task, tmp_path, checkpoint_every=1000)
    processes = step(2, folder, "srun")
    deadline = time.monotonic() + 100
    while not folder.metrics() and time.monotonic() < deadline:
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGTERM)  # srun signals every task; one must be enough
    outputs = [process.communicate(timeout=100)[0] for process in processes]
    (checkpoint,) = folder.checkpoints()
    done = json.loads((checkpoint / "state.json").read_text())["step"]
    assert [process.returncode for process in processes] == [130, 0], outputs
    assert 1 <= done < 24 and folder.status().state == "cancelled"
    finish(step(2, folder, "srun"))
    torch.testing.assert_close(losses(folder), losses(alone), rtol=2e-3, atol=1e-5)


def test_nothing_left_to_do_ends_all(alone: RunFolder) -> None:
    before = read_json(alone.path / "train.json")
    finish(step(2, alone, "torchrun"))
    assert read_json(alone.path / "train.json") == before


def test_place() -> None:
    assert rank_and_world_size({}) == (0, 1)
    assert rank_and_world_size({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}) == (0, 1), (
        "a batch script is no task of a step"
    )
    assert rank_and_world_size({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1"}) == (5, 8)
    assert rank_and_world_size({"RANK": "1", "WORLD_SIZE": "4"}) == (1, 4)
    assert (local_rank({"SLURM_LOCALID": "3"}), local_rank({"LOCAL_RANK": "2"}), local_rank({})) == (3, 2, 0)


def test_buckets_hold_everything_in_order() -> None:
    sizes = [5, BUCKET - 5, 1, BUCKET + 1, 2]
    gradients = [torch.empty(size, device="meta") for size in sizes]
    gradients.append(torch.empty(3, dtype=torch.bfloat16, device="meta"))
    bucket_sizes = [[g.numel() for g in bucket] for bucket in gradient_buckets(gradients)]
    assert bucket_sizes == [[5, BUCKET - 5], [1], [BUCKET + 1], [2], [3]]


def test_one_process_exchanges_with_nobody() -> None:
    assert (
        SINGLE_PROCESS.gather({"a": 1}) == [{"a": 1}]
        and SINGLE_PROCESS.broadcast(["train"]) == ["train"]
        and not SINGLE_PROCESS.any(False)
    )
    assert ProcessGroupContext(1, 2).samples(5) == range(1, 5, 2) and not ProcessGroupContext(1, 2).is_first


def torchrun(results: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Two processes, as a user of torchrun starts them."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "bench.work", *arguments, "--results", str(results), "--threads", "1"]
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)


def test_torchrun_of_a_spec_gives_the_run_of_the_harness(task: dict[str, Any], tmp_path: Path) -> None:
    """Same folder; same numbers as of two ranks that are started for a run folder."""
    (tmp_path / "ranks.yaml").write_text(SPEC)
    done = torchrun(tmp_path / "results", str(tmp_path / "ranks.yaml"), "--device", "cpu")
    assert done.returncode == 0, done.stderr[-3000:]
    ours, theirs = RunFolder(tmp_path / "results" / "runs" / task["id"]), new(task, tmp_path / "theirs")
    finish(step(2, theirs, "srun"))
    assert ours.status().state == "done" and ours.spec() == theirs.spec() and "cpu-2" in ours.profiles()
    assert torch.equal(losses(ours), losses(theirs))
    weights = [load_file(folder.path / "weights.safetensors") for folder in (ours, theirs)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    means = [next(iter(folder.evaluations().values()))["means"] for folder in (ours, theirs)]
    assert means[0] == means[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ranks.yaml", "seeds=[0, 1]"], "it has 2 runs: name one with --only"),
        (["ranks.yaml", "--only", "no such run"], "--only 'no such run' is none of its runs"),
        (["no_such.yaml"], "no_such.yaml"),
        (["."], "is no run folder: it has no spec.json"),
        (["ranks.yaml", "train.batch=3"], "train.batch: 3 scenes cannot be shared evenly by 2 processes"),
    ],
)
def test_what_names_no_run_is_refused_in_one_sentence(arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "ranks.yaml").write_text(SPEC)
    command = [sys.executable, "-m", "bench.work", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RANK": "0", "WORLD_SIZE": "2"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "error: " in line]
    assert message in line and not (tmp_path / "results").exists()
