"""Traces: asked for late, made alone, and opened by TensorBoard's profiler plugin."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from support.commands import SPEC
from torch.autograd.profiler_util import FunctionEventAvg
from torch.profiler import DeviceType

import bench.run
from bench.common.errors import UserError
from bench.common.json_files import read_json
from bench.config import (
    from_dict,
    load,
    run_id,
    to_dict,
)
from bench.execution.launcher import Launcher, Task, needs_work
from bench.execution.progress import SweepProgress
from bench.execution.worker import missing_stages
from bench.profiling import step_profile
from bench.profiling.phases import PHASES
from bench.profiling.trace import RANGES, longest_operators
from bench.runs.folder import RunFolder
from models.weights import load as load_model

PATIENCE_S = 60


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that was traced afterwards."""
    folder = tmp_path_factory.mktemp("traced")
    spec = folder / "sweep.yaml"
    spec.write_text(SPEC)
    (plain,) = (run for run in load(spec, ["train.steps=6"]).runs if run.label == "patch 8")
    task = Task(RunFolder(folder / "runs" / plain.id), plain.label, to_dict(plain.spec))
    with SweepProgress(Console(quiet=True), 1) as progress:
        assert [status.state for status in Launcher([task], progress).run().values()] == ["done"]
    before = {path: path.stat().st_mtime_ns for path in trace_folder(folder)}
    assert before and not list(folder.glob("runs/*/traces"))
    arguments = ["--threads", "1", "--only", "patch 8", "train.steps=6", "profile.trace=true"]
    assert bench.run.main([str(spec), "--results", str(folder), *arguments]) == 0
    assert {path: path.stat().st_mtime_ns for path in trace_folder(folder)} == before
    return folder


def trace_folder(folder: Path) -> list[Path]:
    """What training, evaluation and profile leave."""
    names = ("metrics.jsonl", "weights.safetensors", "train.json", "evals/*.json", "profiles/*.json")
    return [path for name in names for path in folder.glob(f"runs/*/{name}")]


def test_a_trace_is_no_part_of_what_a_run_is(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(SPEC)
    plain, traced = load(path), load(path, ["profile.trace=true"])
    assert [run.id for run in plain.runs] == [run.id for run in traced.runs]
    assert traced.runs[0].spec.profile.trace and not plain.runs[0].spec.profile.trace
    old = {key: value for key, value in to_dict(plain.runs[0].spec).items() if key != "profile"}
    assert run_id(from_dict(old)) == plain.runs[0].id


def test_asked_for_again_nothing_is_due(results: Path) -> None:
    (folder,) = (RunFolder(path) for path in results.glob("runs/*"))
    spec = folder.spec()
    assert spec["profile"] == {"trace": True} and not needs_work(Task(folder, "", spec))
    assert not needs_work(Task(folder, "", spec | {"profile": {"trace": False}}))
    assert missing_stages(folder, spec) == []


def test_time_by_part(results: Path) -> None:
    (sweep,) = results.glob("sweep_tiny*profile.trace=true*")
    runs = read_json(sweep / "figures" / "time_by_part.json")["runs"]
    assert list(runs) == ["patch 8"] and (sweep / "figures" / "time_by_part.png").is_file()
    (folder,) = (RunFolder(path) for path in results.glob("runs/*"))
    (summary,) = folder.traces().values()
    assert set(summary["parts_ms"]) == set(PHASES) and min(summary["parts_ms"].values()) > 0
    assert summary["step_ms"] == pytest.approx(sum(summary["parts_ms"].values()))
    assert summary["switches"]["views_at_once"] is None and not summary["switches"]["shard"]
    assert runs["patch 8"].items() <= summary.items() and summary.keys() - runs["patch 8"] == {"memory", "operators"}
    assert summary["weights"] == "trained"
    assert not list(folder.path.rglob(".tmp-*"))


def test_memory_by_part(results: Path) -> None:
    """Of the traced step, by the part that allocated it: what the profile measured in another way."""
    (folder,) = (RunFolder(path) for path in results.glob("runs/*"))
    ((trace,), (profile,)) = folder.traces().values(), folder.profiles().values()
    memory = trace["memory"]
    at_peak = memory["at_peak_bytes"]
    assert {"weights and optimizer", "aggregator", "backward"} <= set(at_peak) and min(at_peak.values()) > 0
    held = [sum(values) for values in zip(*memory["held_bytes"].values(), strict=True)]
    assert max(held) == sum(at_peak.values()) and memory["time_ms"] == sorted(memory["time_ms"])
    weights = sum(parameter.numel() for parameter in load_model(folder.path).parameters())
    assert at_peak["weights and optimizer"] >= 12 * weights  # and Adam's two moments, in fp32
    assert sum(at_peak.values()) / 2**30 == pytest.approx(profile["allocated_peak_memory_gib"], rel=0.1)
    shares = [operator["share"] for operator in trace["operators"]]
    assert shares == sorted(shares, reverse=True) and 0.3 < sum(shares) <= 1
    names = {operator["name"] for operator in trace["operators"]}
    assert "aten::mm" in names and not names & {*RANGES, "step"} and not any("#" in name for name in names)
    (sweep,) = results.glob("sweep_tiny*profile.trace=true*")
    drawn = {path.stem for path in (sweep / "figures").glob("*.png")}
    assert {"time_by_part", "memory_by_part", "memory_timeline", "top_operators"} <= drawn


def get_json(address: str, route: str, **query: object) -> Any:
    """A JSON answer of the plugin."""
    url = f"{address}/data/plugin/pytorch_profiler/{route}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=20) as answer:
        return json.loads(answer.read())


def test_tensorboard_lists_the_ranges(results: Path) -> None:
    """A real server, on loopback: the operator view has every part, with time in it."""
    pytest.importorskip("torch_tb_profiler")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", results / "runs", "--host", "127.0.0.1",
               "--port", str(port), "--load_fast=false"]  # fmt: skip
    with (results / "tensorboard.txt").open("wb") as log:
        server = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        (name,) = wait_for(address, 1, server)
        assert name.endswith("/traces/cpu-1") and (results / "runs" / name).is_dir()
        (worker,) = get_json(address, "workers", run=name, view="Operator")
        table = get_json(address, "operation/table", run=name, worker=worker, span="default", view="Operator",
                    group_by="Operation")  # fmt: skip
        total = {row["name"]: row["host_total_duration"] for row in table["data"]}
        assert all(total.get(part, 0) > 0 for part in RANGES), total
    finally:
        server.terminate()
        server.wait(20)


def wait_for(address: str, count: int, server: subprocess.Popen[bytes]) -> list[str]:
    """The plugin's runs, once it has read that many."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError):
            answer = get_json(address, "runs")
            if len(answer["runs"]) >= count and not answer["loading"]:
                return list(answer["runs"])
        time.sleep(0.3)
    pytest.fail("TensorBoard did not read the traces")


def test_time_of_a_kernel_counts_once() -> None:
    """A GPU's averages hold the operator that launches a kernel with the kernel's time, and the kernel."""

    def average(name: str, kind: DeviceType, time_us: int, is_range: bool = False) -> FunctionEventAvg:
        entry = FunctionEventAvg()
        entry.key, entry.device_type, entry.count, entry.is_user_annotation = name, kind, 3, is_range
        entry.self_device_time_total = time_us
        return entry

    averages = [
        average("aten::mm", DeviceType.CPU, 3000),
        average("gemm", DeviceType.CUDA, 3000),
        average("aten::add", DeviceType.CPU, 1000),
        average("add", DeviceType.CUDA, 1000),
        average("step", DeviceType.CUDA, 4000, is_range=True),
    ]
    assert longest_operators(averages, torch.device("cuda")) == [
        {"name": "gemm", "calls": 1, "ms": 1, "share": 0.75},
        {"name": "add", "calls": 1, "ms": pytest.approx(1 / 3), "share": 0.25},
    ]


def test_nothing_is_measured_under_a_profiler(monkeypatch: pytest.MonkeyPatch) -> None:
    finders = [finder for finder in sys.meta_path if not type(finder).__module__.startswith("jaxtyping")]
    monkeypatch.setattr(sys, "meta_path", finders)
    step_profile.require_clean_timing()
    with torch.profiler.profile(), pytest.raises(UserError, match="profiler is active"):
        step_profile.require_clean_timing()
