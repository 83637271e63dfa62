"""Estimates: what they print and hold, what they refuse, and that they agree with real steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.commands import SPEC
from support.paths import ROOT

import bench.run
from bench import config
from bench.common.errors import UserError
from bench.profiling.benchmarks import estimate as benchmark
from bench.profiling.estimate.allocator import MIB, replay
from bench.profiling.estimate.estimate import step_cost
from bench.rendering import automatic_backend, render
from models.tensors import Cameras, Gaussians

TABLE3 = ROOT / "ablations" / "table3.yaml"
TOO_LARGE = "train.batch=262144"
CLUSTER = "partition: x\ngpus: 4\ngpu_type: a100\n"


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small spec in an empty folder, with an empty cache: nothing has been set up."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EAD_BENCH_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    return path


def rows(spec: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert bench.run.main([str(spec), *arguments, "--json"]) == 0
    parsed: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return parsed


def test_estimate_of_a_cpu(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = rows(spec, capsys, "--estimate", "--threads", "2")
    assert {path.name for path in spec.parent.iterdir()} == {"spec.yaml", "cluster.yaml", "cache"}  # nothing trained
    estimate, memory = first["estimate"], first["estimate"]["memory"]
    assert estimate["hardware"] == {"card": "2 CPU cores", "ranks": 1, "memory_gib": None, "assumed": None,
                                    "rates": estimate["hardware"]["rates"]}  # fmt: skip
    assert estimate["hardware"]["rates"].startswith("uncalibrated")
    assert estimate["fits"] is None and estimate["gpu_hours"] is None and "reserved_gib" not in memory
    tflop = estimate["tflop_per_step"]
    assert tflop["total"] == pytest.approx(tflop["forward"] + tflop["backward"])
    assert tflop["total"] == pytest.approx(sum(tflop["by_part"].values()))
    weights = memory["static_gib"]["weights"]
    assert weights == pytest.approx(4 * first["parameters"]["total"] / 2**30)
    assert memory["static_gib"]["optimizer"] == pytest.approx(2 * weights, rel=1e-2)
    assert sum(memory["at_peak_gib"].values()) == pytest.approx(memory["allocated_gib"]["expected"], rel=0.05)
    assert second["estimate"]["tflop_per_step"]["total"] < tflop["total"] / 2  # a quarter of the tokens
    assert 0 < estimate["hours"]["low"] < estimate["hours"]["high"] and estimate["step_ms"] > 0


def test_an_average_of_the_weights_is_static_memory(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    memory = rows(spec, capsys, "--estimate", "train.ema=0.99")[0]["estimate"]["memory"]
    assert memory["static_gib"]["optimizer"] == pytest.approx(3 * memory["static_gib"]["weights"], rel=1e-2)


def test_a_trace_is_kept_for_what_costs_the_same(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = rows(spec, capsys, "--estimate")
    kept = set((spec.parent / "cache" / "estimates").iterdir())
    after = rows(spec, capsys, "--estimate", "seed=3", "train.learning_rate=0.1", "train.steps=120")
    assert len(kept) == 2 and set((spec.parent / "cache" / "estimates").iterdir()) == kept
    for old, new in zip(before, after, strict=True):
        assert new["estimate"]["memory"] == old["estimate"]["memory"]
        assert new["estimate"]["hours"]["low"] == pytest.approx(2 * old["estimate"]["hours"]["low"])


def test_estimate_of_a_cluster(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, _ = rows(spec, capsys, "--estimate", "--slurm", "cluster.yaml", "train.batch=8")
    memory = first["estimate"]["memory"]
    assert first["estimate"]["hardware"]["card"] == "A100-80GB" and first["estimate"]["fits"] is True
    assert first["batch_per_rank"] == 2 and first["estimate"]["hardware"]["ranks"] == 4
    assert memory["static_gib"]["exchange"] >= 0.9 * memory["static_gib"]["gradients"] > 0
    for name in ("allocated_gib", "reserved_gib", "device_gib"):
        assert memory[name]["low"] <= memory[name]["expected"] <= memory[name]["high"]
    assert memory["allocated_gib"]["low"] <= memory["reserved_gib"]["low"] < memory["device_gib"]["low"]
    assert first["estimate"]["gpu_hours"]["low"] == pytest.approx(4 * first["estimate"]["hours"]["low"])


def test_processes_that_cannot_share_the_batch_are_refused(spec: Path) -> None:
    with pytest.raises(UserError, match=r"train.batch 1 is not a multiple of the 4 processes of a run \(assumed: a100"):
        bench.run.main([str(spec), "--scale", "paper", "--estimate", "train.batch=1"])


def test_what_does_not_fit_and_what_would(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--slurm", "cluster.yaml", "--fit", "24", TOO_LARGE, "--only", "patch 4"]
    (first,) = rows(spec, capsys, *arguments)
    assert first["estimate"]["fits"] is False
    (override,) = first["fit"]["overrides"]
    size = int(override.removeprefix("train.micro_batch="))
    assert first["fit"]["device_gib"] <= 24 < first["estimate"]["memory"]["lower_bound_gib"]
    more = [*arguments[:2], "--estimate", *arguments[4:]]
    assert rows(spec, capsys, *more, override)[0]["estimate"]["fits"] is True
    (doubled,) = rows(spec, capsys, *more, f"train.micro_batch={2 * size}")
    assert doubled["estimate"]["memory"]["device_gib"]["high"] > 24 * 0.985
    assert bench.run.main([str(spec), *arguments]) == 0
    printed = capsys.readouterr().out
    assert (
        "does not fit A100-80GB: a process needs at least" in printed and f"in 24 GB: {override} (the same" in printed
    )


BF16 = [f"model.precision.{part}=bf16" for part in ("encoder", "aggregator", "head")]


def test_nothing_fits_a_gpu_smaller_than_its_context(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every switch is tried, in bf16 as at paper size, where a view at a time uses the head's weights several times."""
    arguments = ["--slurm", "cluster.yaml", "--fit", "1", "train.batch=8", *BF16, "--only", "patch 8"]
    (first,) = rows(spec, capsys, *arguments)
    assert first["fit"]["overrides"] is None and first["fit"]["device_gib"] > 1
    assert bench.run.main([str(spec), *arguments]) == 0
    assert "in 1 GB: no switch suffices, the smallest takes up to" in capsys.readouterr().out


def test_what_cannot_be_estimated_is_not_proposed(
    spec: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss that fails on a view or a scene alone."""
    from bench.losses import mse

    def of_several(prediction: Any, batch: Any) -> torch.Tensor:
        scenes, views = batch.targets.shape[:2]
        if scenes == 1 or views == 1:
            raise RuntimeError("it needs several")
        return torch.as_tensor((prediction.images - batch.targets).square().mean((1, 2, 3, 4)))

    monkeypatch.setattr(mse, "mse", of_several)
    arguments = ["--slurm", "cluster.yaml", TOO_LARGE, "--only", "patch 4"]
    (first,) = rows(spec, capsys, *arguments, "--fit", "24")
    assert first["fit"]["overrides"] and first["fit"]["overrides"][0].startswith("train.micro_batch=")
    (first,) = rows(spec, capsys, *arguments, "--fit", "1")
    assert first["fit"]["overrides"] is None


def test_a_proposal_weakens_nothing_that_the_spec_saves(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where weights decide, so that every switch before `train.shard` is tried first."""
    given = [f"train.recompute.{part}=block" for part in ("encoder", "aggregator", "head")]
    added = ["train.views_at_once=1", "train.head_views=1", "train.shard=true"]
    arguments = ["--slurm", "cluster.yaml", "--only", "patch 8", "train.batch=4", "model.encoder.width=1024", *given]
    unsharded, sharded = (
        rows(spec, capsys, *arguments, *more, "--estimate")[0]["estimate"]["memory"]["device_gib"]["high"]
        for more in (added[:2], added)
    )
    (row,) = rows(spec, capsys, *arguments, "--fit", str((unsharded + sharded) / 2 / 0.985))
    assert row["fit"]["overrides"] == added and row["fit"]["device_gib"] == sharded < unsharded


@pytest.mark.long
def test_what_makes_a_paper_model_fit(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--scale", "paper", "--only", "FreeSplatter"]
    fits = {gb: rows(TABLE3, capsys, *small, "--fit", str(gb))[0]["fit"] for gb in (12, 8, 4)}
    assert "train.recompute.aggregator=selective" in fits[12]["overrides"] and fits[12]["device_gib"] < 12
    assert {"train.recompute.aggregator=block", "train.shard=true"} <= set(fits[8]["overrides"])
    assert len({word.partition("=")[0] for word in fits[8]["overrides"]}) == len(fits[8]["overrides"])
    assert fits[4]["overrides"] is None and 4 < fits[4]["device_gib"] < fits[8]["device_gib"] < 8


def test_croco_can_be_estimated_under_lean(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At paper size its decoder runs in bf16, for one view after the other."""
    words = ["--scale", "paper", "--estimate", "model.aggregator.blocks=2", "model.encoder.blocks=2"]
    base = ROOT / "ablations" / "base" / "croco.yaml"
    plain, lean = (rows(base, capsys, *words, f"train.regime={regime}")[0] for regime in ("paper", "lean"))
    allocated = [row["estimate"]["memory"]["allocated_gib"]["high"] for row in (plain, lean)]
    assert allocated[1] < allocated[0]


LONG_NAME = "E and A recomputed but attention"
NAMED = f"""runs:
  - {{name: FreeSplatter}}
  - {{name: {LONG_NAME}, train.recompute.aggregator: selective}}
set:
  study: cost"""


@pytest.mark.parametrize(("columns", "omitted"), [
    ("120", None), ("80", "left out in 80 columns: GPU time"), ("74", "left out in 74 columns: GPU time, reserved"),
])  # fmt: skip
def test_the_table_keeps_names_whole(
    columns: str, omitted: str | None, spec: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And prints less than an hour in minutes, which JSON keeps in hours."""
    spec.write_text(SPEC.replace("grid: {model.encoder.patch: [4, 8]}\nset:", NAMED))
    monkeypatch.setenv("COLUMNS", columns)
    arguments = [str(spec), "--estimate", "--slurm", "cluster.yaml", "train.batch=4", "train.compile=true"]
    assert bench.run.main(arguments) == 0
    _, _, table = capsys.readouterr().out.partition("Estimated on")
    for name in ("FreeSplatter", LONG_NAME):
        (line,) = (line for line in table.splitlines() if line.strip().startswith(f"{name} "))
        assert line.rstrip().endswith(" min") and len(line) <= int(columns)
    assert (omitted or "GPU time") in " ".join(table.split()) and ("left out" in table) == bool(omitted)
    assert "train.compile: not counted" in table


def test_slurm_refuses_what_cannot_fit(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(spec.parent))  # without sbatch, which is asked only after the estimate
    few = [f"data.{split}_scenes=2" for split in ("training", "validation", "evaluation")]
    submit = [str(spec), "--slurm", "cluster.yaml", TOO_LARGE, "--only", "patch 4", *few]
    with pytest.raises(UserError, match=r"does not fit A100-80GB(.|\n)*nothing was submitted.*--submit-anyway"):
        bench.run.main(submit)
    with pytest.raises(UserError) as error:
        bench.run.main([*submit, "--submit-anyway"])
    assert "does not fit" not in str(error.value)


def test_unknown_cards_are_said_and_refuse_nothing(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("cluster.yaml").write_text("gpus: 1\ngpu_type: mi300\n")
    first, _ = rows(spec, capsys, "--estimate", "--slurm", "cluster.yaml")
    assert "names no card that is known" in first["estimate"]["hardware"]["assumed"]


def test_a_part_that_reads_values_is_left_out(
    spec: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other runs are estimated."""
    from bench.losses import mse

    def reads(prediction: Any, batch: Any) -> torch.Tensor:
        loss = (prediction.images - batch.targets).square().mean((1, 2, 3, 4))
        return loss if loss.detach().sum() > 0 else -loss

    monkeypatch.setattr(mse, "mse", reads)
    first, _ = rows(spec, capsys, "--estimate")
    assert first["estimate"] is None and "cannot be estimated" in first["estimate_problem"]
    assert bench.run.main([str(spec), "--estimate"]) == 0


@pytest.mark.parametrize(("arguments", "problem"), [
    (["--fit", "0"], "--fit 0: gigabytes of a GPU, above 0"),
    (["--fit", "24"], "--fit is for GPUs"),
])  # fmt: skip
def test_bad_options(spec: Path, arguments: list[str], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        bench.run.main([str(spec), *arguments])


@pytest.mark.parametrize(
    "case",
    [benchmark.CASES[1], *(pytest.param(case, marks=pytest.mark.long) for case in benchmark.CASES[2:])],
    ids=lambda case: case.label,
)
def test_estimates_agree_with_real_steps(case: benchmark.Case) -> None:
    """As `python -m bench.benchmark estimate` does."""
    assert len(benchmark.CASES) >= 12
    (comparison,) = benchmark.compare([case])
    assert comparison.ratio == pytest.approx(1, abs=benchmark.GOAL)


@pytest.mark.long
def test_paper_sizes() -> None:
    """TFLOP of a step of 32 scenes with LPIPS, counted by hand: FreeSplatter 439, Ours1 114, Ours2 137."""
    expected = {"FreeSplatter": 439, "Ours1": 114, "Ours2": 137}
    for run in config.load(TABLE3, scale="paper").runs:
        cost = step_cost(run.spec, 4, "cuda")
        assert 4 * (cost.tflop("forward") + cost.tflop("backward")) == pytest.approx(expected[run.label], rel=0.01)
        reserved = cost.memory.reserved_gib
        assert reserved.low <= reserved.expected <= reserved.high


@pytest.mark.parametrize(("sizes", "reserved"), [
    ([1], 2), ([MIB], 2), ([MIB, MIB], 2), ([MIB, MIB, 1], 4),  # small pool: segments of 2 MiB
    ([MIB + 1], 20), ([9 * MIB, 9 * MIB], 20), ([9 * MIB] * 3, 40),  # large pool: of 20 MiB below 10 MiB
    ([11 * MIB + 1], 12), ([10 * MIB], 10), ([MIB, 10 * MIB], 12),  # else rounded up to 2 MiB
])  # fmt: skip
def test_segments_of_the_allocator(sizes: list[int], reserved: int) -> None:
    allocator = replay(sizes, [i + 1 for i in range(len(sizes))], step=0, steps=1)
    assert allocator.reserved == reserved * MIB
    assert sum(sizes) <= allocator.allocated <= allocator.reserved


def test_the_allocator_reuses_and_merges_blocks() -> None:
    """12 MiB, freed, serve 5 + 7; those, freed, serve 12 again; a step that repeats needs nothing new."""
    sizes = [12 * MIB, 5 * MIB, 7 * MIB, 12 * MIB]
    events = [1, -1, 2, 3, -2, -3, 4]
    allocator = replay(sizes, events, step=0)
    assert allocator.reserved == allocator.peak_allocated == 12 * MIB


def test_shapes_of_a_gpus_rasterizer() -> None:
    """The same layers as the kernel that draws, and gradients for the same fields."""
    count, views, size = 50, 3, 24
    tensors = {"means": (count, 3), "rotations": (count, 4), "scales": (count, 3), "opacities": (count,),
               "harmonics": (count, 4, 3)}  # fmt: skip
    leaves = {name: torch.rand(2, *shape, requires_grad=True) for name, shape in tensors.items()}
    cameras = Cameras(torch.eye(4).expand(2, views, 4, 4), torch.eye(3).expand(2, views, 3, 3), size, size)
    drawn = render(Gaussians(**leaves), cameras, torch.ones(2, views, 3))
    with automatic_backend("gsplat_shapes"):
        shapes = render(Gaussians(**leaves), cameras, torch.ones(2, views, 3))
    for name in ("rgb", "depth", "alpha"):
        assert getattr(shapes, name).shape == getattr(drawn, name).shape
    torch.autograd.backward(shapes.rgb.sum())
    assert all(leaf.grad is not None and leaf.grad.shape == leaf.shape for leaf in leaves.values())
