"""The profile stage: what a measurement must carry, and when it refuses."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from support.balls import Balls
from support.training import CPU, SIZE, run, spec

from bench.common.errors import UserError
from bench.config.schema import RecomputeSpec
from bench.data.batch import Batch
from bench.losses import Prediction, Term, mse
from bench.profiling import phases, step_profile
from bench.runs.folder import RunFolder
from bench.runs.writer import PlainWriter
from bench.runtime.distributed import DistributedContext


@pytest.fixture
def unhooked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests check shapes; measuring refuses to run under that."""
    finders = [finder for finder in sys.meta_path if not type(finder).__module__.startswith("jaxtyping")]
    monkeypatch.setattr(sys, "meta_path", finders)


@pytest.mark.usefixtures("unhooked")
def test_profile(tmp_path: Path) -> None:
    run(tmp_path, spec(steps=4))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    step_profile.profile(spec(steps=4), PlainWriter(tmp_path), device=CPU, source=Balls(SIZE))
    (profile,) = RunFolder(tmp_path).profiles().values()
    assert (tmp_path / "profiles" / "cpu-1.json").is_file()
    assert 0 < profile["step_time_ms_p10"] <= profile["step_time_ms"] <= profile["step_time_ms_p90"]
    assert 0.05 < profile["host_peak_memory_gib"] < 8
    assert 0 < profile["allocated_peak_memory_gib"] < profile["host_peak_memory_gib"]
    assert profile["reserved_peak_memory_gib"] is profile["device_memory_gib"] is None  # of a GPU
    numbers = {name for name in profile if name.endswith(("_ms", "_gib"))}
    others = {"ranks", "load_average", "estimate", "forward_gflop", "other_share", "phases_overhead", "data_wait_share",
              "scenes_per_s", "tflops", "matmul_tflops", "mfu", "mfu_model", "inference", "switches"}  # fmt: skip
    assert numbers | others == set(profile["definitions"])
    assert profile["step_time_ms_p90"] <= profile["step_time_ms_p99"]
    assert profile["ranks"] == [{name: profile[name] for name in profile["ranks"][0]}]
    assert profile["weights"] == "trained" and profile["threads"] == torch.get_num_threads()
    assert profile["device"] and profile["batch"] == 4 and profile["window_steps"] == 10
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}


@pytest.mark.usefixtures("unhooked")
def test_a_profile_says_what_a_step_does_and_what_the_model_costs_to_use(tmp_path: Path) -> None:
    trained = run(tmp_path, spec(steps=4))
    profile = step_profile.measure(spec(), device=CPU, source=Balls(SIZE), folder=tmp_path)
    assert set(profile["phases_ms"]) == set(phases.PHASES)
    share = profile["phases_ms"]["other"] / sum(profile["phases_ms"].values())
    assert profile["other_share"] == pytest.approx(share) and 0 < share < 1
    assert profile["scenes_per_s"] == pytest.approx(4000 / profile["step_time_ms"])
    tflops = 3 * profile["forward_gflop"] * profile["scenes_per_s"] / 1000
    assert profile["tflops"] == pytest.approx(tflops) and profile["matmul_dtype"] == "float32"
    assert profile["mfu"] == pytest.approx(tflops / profile["matmul_tflops"])
    assert profile["mfu_model"] > profile["mfu"] > 0
    assert profile["data_wait_share"] == (trained.training() or {})["data_wait_share"]
    use = profile["inference"]
    assert use["gaussians"] == 4 * SIZE**2 >= use["kept_gaussians"] >= 0
    assert use["latency_ms"] > 0 and use["views_per_s"] > 0 and 0 < use["peak_memory_gib"] < 0.1


@pytest.mark.usefixtures("unhooked")
def test_a_profile_holds_its_estimate(tmp_path: Path) -> None:
    """What tensors hold on a CPU is measured and estimated, within a tenth of each other."""
    step_profile.profile(spec(steps=4), PlainWriter(tmp_path), device=CPU, source=Balls(SIZE))
    (profile,) = RunFolder(tmp_path).profiles().values()
    measured, estimate = profile["allocated_peak_memory_gib"], profile["estimate"]
    assert estimate["allocated_peak_memory_gib"] == pytest.approx(measured, rel=0.1)
    assert estimate["step_time_ms"] > 0 and estimate["hardware"]["memory_gib"] is None


@pytest.mark.usefixtures("unhooked")
def test_a_profile_says_that_it_is_of_an_untrained_model_and_with_which_switches(tmp_path: Path) -> None:
    changed = spec(micro_batch=2, recompute=RecomputeSpec(head="block"))
    result = step_profile.measure(changed, device=CPU, source=Balls(SIZE), folder=tmp_path / "planned")
    assert result["weights"] == "initial"
    assert result["switches"] == {
        "micro_batch": 2, "recompute": {"encoder": "none", "aggregator": "none", "head": "block"},
        "views_at_once": None, "head_views": None, "fused_qkv": False, "shard": False,
    }  # fmt: skip


@pytest.mark.usefixtures("unhooked")
def test_the_first_rank_alone_measures_the_device() -> None:
    """Products that every rank timed at once would share a CPU."""
    first, second = (
        step_profile.measure(spec(), device=CPU, source=Balls(SIZE), ranks=DistributedContext(rank, 2))
        for rank in (0, 1)
    )
    assert first["matmul_tflops"] > 0 and first["inference"]
    assert not {"matmul_tflops", "inference"} & set(second) and second["step_time_ms"] > 0


@dataclass(frozen=True)
class Counted(mse.Spec):
    """L_m, which notes each of its evaluations."""

    evaluations: ClassVar[list[str]] = []

    def build(self, device: torch.device) -> Term:
        term = super().build(device)

        def counted(prediction: Prediction, batch: Batch) -> torch.Tensor:
            self.evaluations.append(batch.scenes[0])
            return term(prediction, batch)

        return counted


@pytest.mark.usefixtures("unhooked")
def test_steps_of_the_window_have_all_losses() -> None:
    """geometry_first covers the first steps of a training: those of the window come after it, and render. So does the
    step whose memory is measured, and the one that the estimate traces where the cache does not have it."""
    of = replace(spec(), losses={**spec().losses, "mse": Counted()})
    step_profile.measure(of, device=CPU, source=Balls(SIZE))
    timed = step_profile.WARM_UP + 2 * step_profile.WINDOW
    assert len(Counted.evaluations) in (timed + 1, timed + 2)


def test_refused_while_shapes_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    finder = type("Finder", (), {"__module__": "jaxtyping._import_hook"})()
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    with pytest.raises(UserError, match="jaxtyping checks are on"):
        step_profile.measure(spec(), device=CPU, source=Balls(SIZE))


@pytest.mark.usefixtures("unhooked")
def test_the_peak_is_of_the_window(tmp_path: Path) -> None:
    """A gigabyte that was used and freed before does not count."""
    before = step_profile.measure(spec(), device=CPU, source=Balls(SIZE))["host_peak_memory_gib"]
    torch.ones(2**28).sum()
    after = step_profile.measure(spec(), device=CPU, source=Balls(SIZE))["host_peak_memory_gib"]
    if not Path("/proc/self/clear_refs").is_file():
        pytest.skip("this system cannot reset VmHWM")
    assert after < before + 0.5
