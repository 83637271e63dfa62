"""A real SLURM, started here: everything that can happen to a sweep happens, and the table is that of a quiet one.

Minutes long: run with REQUIRE=slurm in the environment, and a failure then where no SLURM is installed; else skipped.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from support import slurm_cluster
from support.slurm_cluster import Cluster, alive, kill, wait

from bench.common.json_files import read_json, read_lines
from bench.runs.attempts import read_attempts
from bench.runs.folder import RunFolder
from bench.runs.lease import current_claim

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1200)]

COMMON = """
set:
  model: {encoder.width: 48, aggregator: {blocks: 1, heads: 2}}
  train: {steps: 60, batch: 4, warmup_steps: 2, checkpoint_every: 10}
  data: {name: procedural, training_scenes: 16, validation_scenes: 16, evaluation_scenes: 16}
  evaluation.scenes: 2
  losses.lpips: null
"""
SWEEP = f"""# Does a sweep survive its cluster?
base: freesplatter
runs:
  - {{name: times out, seed: 1}}
  - {{name: loses its node, seed: 2}}
  - {{name: exhausts memory, model.encoder.width: 1000, train.steps: 3, train.batch: 64}}
  - {{name: raises, seed: 3}}
  - {{name: is cancelled, seed: 4}}
  - {{name: is killed, seed: 5}}
  - {{name: is left alone, seed: 6}}
{COMMON}"""
RANKS = f"""# Do ranks of two nodes add up, when one dies?
base: freesplatter
{COMMON}"""
CHAIN = f"""# Does a run wait for the one that it starts from, even if that is preempted?
base: freesplatter
runs:
  - {{name: first}}
  - {{name: second, seed: 2, init.encoder: {{run: first}}}}
{COMMON}"""
CLUSTER = """partition: a100
time: 2
warning_s: 60
cpus: 1
memory: 600M
array_parallelism: 4
sbatch: {exclusive: true}
collect: {time: 10, memory: 2G}
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    reason, required = slurm_cluster.missing(), os.environ.get("REQUIRE") == "slurm"
    if not required:
        pytest.skip(reason or "takes minutes; REQUIRE=slurm in the environment runs it")
    if reason:
        pytest.fail(reason)
    started = Cluster(tmp_path_factory.mktemp("cluster"), nodes=4)
    try:
        started.up()
        yield started
    finally:
        started.down()


class Lab:
    """A folder with a spec and a cluster file, and the commands on it."""

    def __init__(self, folder: Path, cluster: Cluster, spec: str, name: str) -> None:
        self.folder, self.cluster, self.results = folder, cluster, folder / "results"
        (folder / f"{name}.yaml").write_text(spec)
        self.spec, self.sweep = folder / f"{name}.yaml", self.results / f"{name}_tiny"

    def python(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        environment = os.environ | self.cluster.environment
        command = [sys.executable, "-m", *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)

    def submit(self, cluster_file: str, *options: str) -> tuple[str, str]:
        """Its output, and the id of the job that collects."""
        (self.folder / "cluster.yaml").write_text(cluster_file)
        path = self.folder / "cluster.yaml"
        done = self.python("bench.run", self.spec, "--slurm", path, "--results", self.results, "--no-report", *options)
        assert done.returncode == 0, done.stdout + done.stderr
        newest = max((self.sweep / "slurm").iterdir(), key=lambda path: path.name)
        return done.stdout, str(read_json(newest / "submission.json")["collect"])

    def run(self, label: str) -> RunFolder:
        (run_id,) = (line["id"] for line in read_lines(self.sweep / "runs.jsonl") if line["label"] == label)
        return RunFolder(self.results / "runs" / run_id)

    def status(self) -> dict[str, dict[str, Any]]:
        """Label → what bench.status says."""
        return {run["label"]: run for run in json.loads(self.python("bench.status", self.sweep, "--json").stdout)}

    def ended(self, job: str) -> bool:
        state = self.cluster.client("squeue", "-h", "-t", "all", "-j", job, "-o", "%T").strip()
        assert state not in ("FAILED", "CANCELLED", "TIMEOUT"), f"job {job} is {state}"
        return state == "COMPLETED"


def quiet(lab: Lab) -> subprocess.Popen[bytes]:
    """The same sweep on this machine, undisturbed, beside the cluster's."""
    options = ["--threads", "1", "--device", "cpu", "--no-report"]
    arguments = ["bench.run", lab.spec, "--results", lab.folder / "quiet", *options]
    command = ["nice", sys.executable, "-m", *map(str, arguments)]
    with (lab.folder / "quiet.txt").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def worker(folder: RunFolder) -> int:
    claim = current_claim(folder.path)
    assert claim is not None
    return claim.holder.pid


def pending(pid: int, number: signal.Signals) -> bool:
    """Whether a signal waits for a stopped process."""
    lines = slurm_cluster.read(pid, "status").splitlines()
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
    return any(mask >> (number - 1) & 1 for mask in masks)


class Faults:
    """What happens to each run once it has come to its fifth step, and what follows from that."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.cluster = lab, lab.cluster
        self.waiting: dict[str, Callable[[RunFolder], None]] = {
            "times out": self.freeze, "loses its node": self.lose_node, "is cancelled": self.cancel,
            "is killed": self.kill,
        }  # fmt: skip
        self.frozen = self.cut_off = 0

    def step(self) -> None:
        for label, happen in list(self.waiting.items()):
            folder = self.lab.run(label)
            if len(folder.metrics()) >= 5 and folder.status().state == "running":
                del self.waiting[label]
                happen(folder)
        if self.frozen and pending(self.frozen, signal.SIGUSR2):  # SLURM may wake it up by itself
            kill(self.frozen, signal.SIGCONT)
            self.frozen = 0
        if self.cut_off and len(read_attempts(self.lab.run("loses its node"))) > 1:
            kill(self.cut_off, signal.SIGCONT)  # it continues while its successor runs
            pid, self.cut_off = self.cut_off, 0
            wait(lambda: not alive(pid), "the copy that was cut off to notice", 30)

    def freeze(self, folder: RunFolder) -> None:
        """Until SLURM has warned it: a step that takes long."""
        self.frozen = worker(folder)
        kill(self.frozen, signal.SIGSTOP)

    def lose_node(self, folder: RunFolder) -> None:
        """The node's daemon dies; the run on it is as good as cut off from the network."""
        claim = current_claim(folder.path)
        assert claim is not None
        self.node, self.cut_off = claim.holder.host, claim.holder.pid
        kill(self.cut_off, signal.SIGSTOP)
        self.cluster.stop(self.node, signal.SIGKILL)

    def cancel(self, _folder: RunFolder) -> None:
        done = self.lab.python("bench.cancel", self.lab.sweep, "--only", "is cancelled")
        assert done.returncode == 0 and "cancelled" in done.stdout, done

    def kill(self, folder: RunFolder) -> None:
        kill(worker(folder), signal.SIGKILL)


def table(sweep: Path) -> pd.DataFrame:
    """Without what is measured."""
    table = pd.read_csv(sweep / "tables" / "table.csv")
    return table[[name for name in table if not name.startswith("measured/")]]


@pytest.fixture(scope="module")
def lab(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"), cluster, SWEEP, "survive")


@pytest.fixture(scope="module")
def local(lab: Lab) -> Iterator[subprocess.Popen[bytes]]:
    process = quiet(lab)
    yield process
    process.terminate()


def test_everything_happens_to_a_sweep_and_every_status_is_reported(lab: Lab, local: subprocess.Popen[bytes]) -> None:
    dry_run = lab.python("bench.run", lab.spec, "--results", lab.results, "--only", "raises", "--dry-run", "--json")
    raises = RunFolder(lab.results / "runs" / json.loads(dry_run.stdout)[0]["id"])
    (raises.path / "metrics.jsonl").mkdir(parents=True)  # where a file should be
    output, collect = lab.submit(CLUSTER)
    assert re.search(r"array \d+: times out; loses its node", output) and "core-hours" in output, output
    faults = Faults(lab)

    def is_collected() -> bool:
        faults.step()
        return lab.ended(collect)

    wait(is_collected, "the first submission", 600)
    runs = lab.status()
    states = {label: run["state"] for label, run in runs.items()}
    assert states == {
        "times out": "done", "loses its node": "done", "exhausts memory": "oom", "raises": "failed",
        "is cancelled": "cancelled", "is killed": "done", "is left alone": "done",
    }, runs  # fmt: skip
    for label, phase, message in (
        ("exhausts memory", "train", "memory"),
        ("raises", "train", "IsADirectoryError"),
        ("is cancelled", "train", "cancelled by scancel: stopped after step"),
    ):
        assert runs[label]["phase"] == phase and message in runs[label]["message"], runs[label]
    assert "metrics.jsonl" in runs["raises"]["trace"]
    ends = {label: [end["state"] for end in read_attempts(lab.run(label))] for label in states}
    assert "timeout" in ends["times out"]
    others = {
        label: [state for state in states if state != "timeout"] for label, states in ends.items()
    }  # a busy machine
    assert others["is killed"] == ["lost", "done"] and others["loses its node"] == ["node_fail", "done"], ends
    assert "was taken over" in (lab.run("loses its node").path / "log.txt").read_text()
    assert (lab.sweep / "tables" / "table.md").is_file() and list((lab.sweep / "figures").iterdir())

    table = lab.python("bench.status", lab.sweep)
    assert table.returncode == 1 and "1 × failed in train: IsADirectoryError" in table.stdout, table.stdout


def test_what_failed_is_retried_while_the_controller_dies(lab: Lab, local: subprocess.Popen[bytes]) -> None:
    cluster, before = lab.cluster, {label: lab.run(label).training() for label in ("times out", "is left alone")}
    (lab.run("raises").path / "metrics.jsonl").rmdir()
    _, collect = lab.submit(CLUSTER.replace("600M", "4G").replace("time: 2\n", "time: 10\n"), "--retry", "all")
    time.sleep(8)  # SLURM writes its own state down every few seconds, and forgets the rest
    wait(lambda: any(run["state"] == "running" for run in lab.status().values()), "a run at work", 60)
    cluster.stop("slurmctld", signal.SIGKILL)
    began = time.monotonic()
    states = {run["state"] for run in lab.status().values()}
    assert states <= {"done", "running", "queued", "lost", "failed", "oom", "cancelled"} and "done" in states
    assert time.monotonic() - began < 40
    cluster.start_controller()
    wait(lambda: lab.ended(collect), "the second submission", 400)
    assert {run["state"] for run in lab.status().values()} == {"done"}
    assert {label: lab.run(label).training() for label in before} == before, "what was finished ran again"

    assert local.wait(600) == 0, (lab.folder / "quiet.txt").read_text()
    pd.testing.assert_frame_equal(table(lab.sweep), table(lab.folder / "quiet" / lab.sweep.name))
    again = lab.python("bench.run", lab.spec, "--slurm", lab.folder / "cluster.yaml", "--results", lab.results)
    assert "nothing to submit" in again.stdout, again


def test_two_nodes_with_two_ranks_each_give_the_run_of_one(cluster: Cluster, tmp_path: Path) -> None:
    for node in cluster.nodes:
        if cluster.pid(node) is None:
            cluster.start_node(node)
    cluster.wait_idle()
    lab = Lab(tmp_path, cluster, RANKS, "ranks")
    local = quiet(lab)
    cluster_file = CLUSTER.replace("time: 2\n", "time: 10\nnodes: 2\ngpus: 2\ngpu_type: a100\n").replace("600M", "4G")
    _, collect = lab.submit(cluster_file, "--device", "cpu")  # the GPUs are make-believe
    folder = lab.run("ranks")
    wait(lambda: len(folder.metrics()) >= 15, "the fifteenth step", 120)
    claim = current_claim(folder.path)
    assert claim is not None
    others = [pid for pid in cluster.workers(claim.holder.job.split(".")[0]) if pid != claim.holder.pid]
    assert len(others) == 3
    assert {slurm_cluster.environment(pid)["CUDA_VISIBLE_DEVICES"] for pid in others} == {"0,1"}
    kill(others[-1], signal.SIGKILL)  # one rank dies, and takes the step with it
    wait(lambda: lab.ended(collect), "the job and its successor", 400)
    assert [end["state"] for end in read_attempts(folder)] == ["lost", "done"], read_attempts(folder)
    assert len(folder.profiles()["cpu-4"]["ranks"]) == 4
    assert local.wait(400) == 0, (tmp_path / "quiet.txt").read_text()
    alone = RunFolder(tmp_path / "quiet" / "runs" / folder.id)
    losses, expected = (torch.tensor([r["loss"] for r in f.metrics()]) for f in (folder, alone))
    torch.testing.assert_close(losses, expected, rtol=5e-3, atol=1e-4)


def test_a_preempted_run_continues_and_its_child_waits(cluster: Cluster, tmp_path: Path) -> None:
    for node in cluster.nodes:
        if cluster.pid(node) is None:
            cluster.start_node(node)
    cluster.wait_idle()
    lab = Lab(tmp_path, cluster, CHAIN, "chain")
    cluster_file = CLUSTER.replace("partition: a100", "partition: preempt").replace("time: 2", "time: 10")
    output, collect = lab.submit(cluster_file.replace("600M", "4G"))
    first, second = lab.run("first"), lab.run("second")
    assert re.search(r"job \d+: second, after \d+", output), output
    wait(lambda: len(first.metrics()) >= 3, "the first run at work", 120)
    assert lab.status()["second"]["state"] == "queued"
    claim = current_claim(first.path)
    assert claim is not None
    urgent = ["sbatch", "--partition=a100", "--exclusive", f"--nodelist={claim.holder.host}", "--output=/dev/null"]
    cluster.client(*urgent, "--wrap=sleep 5")
    wait(lambda: lab.ended(collect), "both runs", 400)
    assert [end["state"] for end in read_attempts(first)] == ["preempted", "done"], read_attempts(first)
    assert "preempted: stopped after step" in read_attempts(first)[0]["message"]
    assert [end["state"] for end in read_attempts(second)] == ["done"]
    assert read_attempts(second)[0]["started"] >= read_attempts(first)[1]["ended"]
    steps = [record["step"] for record in read_lines(first.path / "metrics.jsonl")]
    assert steps == list(range(1, 61)), "the checkpoint is of the step at which it stopped"
