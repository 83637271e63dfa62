"""Every path of the GPU suite, on a CPU at tiny size: cut off, continued, without time, without a GPU; the bundle."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.paths import ROOT

import bench.outputs.gaussians  # holds on to `render`: imported later, it would keep one that a test replaced
import bench.rendering
from bench.common.console import command_console
from bench.common.errors import UserError
from bench.common.json_files import read_json, write_json
from bench.common.paths import code_hash
from bench.profiling import bundle
from bench.profiling.benchmarks.rendering import Case
from bench.profiling.estimate import hardware
from bench.profiling.gpu import rates, rendering, training
from bench.profiling.gpu.background import Background
from bench.profiling.gpu.cost import CASES, MODELS, REGIMES
from bench.profiling.gpu.measurements import start_background
from bench.profiling.gpu.suite import CODE, Measurement, Suite, run_all
from bench.runtime import lpips_weights


def command(out: Path, *arguments: str) -> list[str]:
    given = ["--out", str(out), "--device", "cpu", "--size", "tiny", *arguments]
    return [sys.executable, "-m", "bench.gpu_suite", *given]


def run(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(out, *arguments), cwd=ROOT, capture_output=True, text=True)


def records(out: Path, part: str) -> dict[str, dict[str, Any]]:
    path = out / f"{part}.json"
    return {record["name"]: record for record in read_json(path)["measurements"]} if path.is_file() else {}


@pytest.mark.long
def test_every_part_has_results(tmp_path: Path) -> None:
    done = run(tmp_path, "--minutes", "20")
    assert done.returncode == 0, done.stdout + done.stderr
    parts = {part: records(tmp_path, part) for part in ("rates", "rendering", "cost", "training", "estimates")}
    everything = [record for part in parts.values() for record in part.values()]
    assert all(
        record["state"] == "done" and record["provenance"]["torch"] == torch.__version__ for record in everything
    )
    assert set(parts["cost"]) == {f"{model}, {regime}" for model in MODELS for regime in REGIMES}
    assert 8 <= len(parts["cost"] | parts["estimates"]) == len(CASES) <= 15
    for row in (parts["cost"] | parts["estimates"]).values():
        assert row["step_time_ms"] > 0 and row["reserved_peak_memory_gib"] is None and row["parameters"] > 1e5
        assert row["estimate_to_measured"]["allocated_peak_memory_gib"] == pytest.approx(1, abs=0.15)
    assert parts["cost"]["ours2, paper"]["paper"] == {"parameters_millions": 475, "gpu_gb": 43.5}
    short = parts["training"]["short run of ours2"]
    assert len(short["steps"]["loss"]) == 4 and short["means"]["psnr"] > 0 and "white" in short["baselines"]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) <= 8 and all(path.stat().st_size < 2**24 for path in files)


def test_killed_it_goes_on_where_it_was(tmp_path: Path) -> None:
    process = subprocess.Popen(command(tmp_path, "--parts", "rates", "rendering"), cwd=ROOT, stdout=subprocess.DEVNULL)
    while not records(tmp_path, "rendering") and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = records(tmp_path, "rates") | records(tmp_path, "rendering")
    assert 2 <= len(before) < 6

    done = run(tmp_path, "--parts", "rates", "rendering")
    assert done.returncode == 0, done.stdout + done.stderr
    after = records(tmp_path, "rates") | records(tmp_path, "rendering")
    assert len(after) == 6 and {name: after[name] for name in before} == before
    assert done.stdout.count("done earlier") == len(before)
    assert all(record["worst"] < rendering.TOLERANCE for record in after.values() if "worst" in record)


def test_the_rates_are_those_that_estimates_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite's file of a known card, copied as it is, replaces the data sheet's values."""
    done = run(tmp_path, "--parts", "rates")
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("rates_*.json")
    content = read_json(path)
    assert content["operator_us"] > 0 and set(content["tflops"]) == {"bfloat16", "tf32", "float32"}
    write_json(path, content | {"card": "H200-141GB", "exchange_gb_s": 300.0})
    monkeypatch.setattr(hardware, "MEASURED", tmp_path)
    card = hardware.card_of("NVIDIA H200")
    assert card is not None and card.source == f"measured: {path.name}"
    assert card.rates.bandwidth_gb_s == content["bandwidth_gb_s"]


def test_other_devices_keep_their_results_and_old_code_loses_them(tmp_path: Path) -> None:
    assert run(tmp_path, "--parts", "rates").returncode == 0
    content = read_json(tmp_path / "rates.json")
    own = content["measurements"][0]
    other = own | {"device": "NVIDIA H200"}
    write_json(tmp_path / "rates.json", content | {"measurements": [own | {"code": "older"}, other]})
    done = run(tmp_path, "--parts", "rates")
    assert done.returncode == 0 and "earlier" not in done.stdout
    named = [each for each in read_json(tmp_path / "rates.json")["measurements"] if each["name"] == own["name"]]
    assert {(each["device"], each["code"]) for each in named} == {
        ("NVIDIA H200", own["code"]),
        (own["device"], own["code"]),
    }


def test_failures_are_repeated_only_when_asked(tmp_path: Path) -> None:
    assert run(tmp_path, "--parts", "rates").returncode == 0
    content = read_json(tmp_path / "rates.json")
    failed = [record | {"state": "failed"} for record in content["measurements"]]
    write_json(tmp_path / "rates.json", content | {"measurements": failed})
    again = run(tmp_path, "--parts", "rates")
    assert again.returncode == 1 and again.stdout.count("failed earlier") == 2
    retried = run(tmp_path, "--parts", "rates", "--retry")
    assert retried.returncode == 0 and "earlier" not in retried.stdout


def suite_at(folder: Path) -> Suite:
    device, deadline = torch.device("cpu"), time.monotonic() + 100
    return Suite(folder, device, True, deadline, command_console(to_stderr=False), Background())


def test_out_of_memory_is_a_result_and_an_error_is_not(tmp_path: Path) -> None:
    def too_large(_: Suite) -> dict[str, Any]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 90.00 GiB.\nmore")

    def broken(_: Suite) -> dict[str, Any]:
        raise ValueError("no such thing")

    assert run_all(suite_at(tmp_path), [Measurement("cost", "too large", too_large)], retry=False)
    assert not run_all(suite_at(tmp_path), [Measurement("cost", "broken", broken)], retry=False)
    cost_records = records(tmp_path, "cost")
    assert cost_records["too large"]["state"] == "oom" and "90.00 GiB" in cost_records["too large"]["summary"]
    assert cost_records["broken"]["state"] == "failed"
    assert cost_records["broken"]["trace"][-1] == "ValueError: no such thing"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_peaks_at_out_of_memory_are_those_of_the_measurement(tmp_path: Path) -> None:
    def large(_: Suite) -> dict[str, Any]:
        torch.empty(2**30, dtype=torch.uint8, device="cuda")
        return {"summary": ""}

    def too_large(_: Suite) -> dict[str, Any]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    suite = replace(suite_at(tmp_path), device=torch.device("cuda"))
    assert run_all(suite, [Measurement("cost", "large", large), Measurement("cost", "too large", too_large)], False)
    assert records(tmp_path, "cost")["too large"]["memory_gib"]["allocated"] < 0.5


def test_only_what_is_required_must_succeed_in_the_background(caplog: pytest.LogCaptureFixture) -> None:
    environment = dict(os.environ)
    background = Background(required="the build")
    background.start("estimates", "raise ValueError('not traced')", environment)
    background.require()
    assert "estimates: exit code 1: ValueError: not traced" in caplog.text
    background.start("the build", "print('a.cu(3): error: no such name\\nstopped'); raise SystemExit(4)", environment)
    for _ in range(2):
        with pytest.raises(UserError, match=r"the build: exit code 4: a\.cu\(3\): error: no such name$"):
            background.require()


def test_rates_need_no_build_and_rendering_does(tmp_path: Path) -> None:
    suite = suite_at(tmp_path)
    suite.background.required = "the build"
    suite.background.start("the build", "raise SystemExit(4)", os.environ)
    _, launches = rates.measurements()
    comparison, *_ = rendering.measurements()
    assert not run_all(suite, [launches, comparison], retry=False)
    assert records(tmp_path, "rates")["launches"]["state"] == "done"
    record = records(tmp_path, "rendering")[comparison.name]
    assert record["state"] == "failed" and "the build: exit code 4" in record["summary"]


def test_waiting_for_the_background_takes_no_more_than_the_time(tmp_path: Path) -> None:
    """Three of five seconds are needed, which the background does not leave."""
    background = Background()
    background.start("endless", "import time; time.sleep(60)", os.environ)
    suite = replace(suite_at(tmp_path), tiny=False, deadline=time.monotonic() + 5, background=background)
    needed = Measurement("cost", "needs three seconds", lambda _: {"summary": ""}, about_s=3)
    try:
        assert not run_all(suite, [needed], retry=False)
        assert 0 < suite.remaining_s() <= 3 and not records(tmp_path, "cost")
        busy = replace(needed, name="may run while it is busy", about_s=0, quiet=False)
        assert run_all(suite, [busy], retry=False)
    finally:
        background.running["endless"][0].kill()
        background.wait()


def test_what_is_retried_is_prepared_again(tmp_path: Path) -> None:
    suite = suite_at(tmp_path)
    failing = Measurement("training", "fails", lambda _: {"passed": False, "summary": ""})
    assert not run_all(suite, [failing], retry=False)
    start_background(suite, [failing], retry=False)
    assert not suite.background.running
    start_background(suite, [failing], retry=True)
    (process, _) = suite.background.running["scenes"]
    process.kill()
    suite.background.wait()


@pytest.mark.parametrize("name", ["phases.py", "inference.py", "flops.py", "benchmarks/rendering.py", "gpu/cost.py"])
def test_results_belong_to_all_of_the_profiling_code(tmp_path: Path, name: str) -> None:
    copy = tmp_path / "bench" / "profiling"
    shutil.copytree(ROOT / "bench" / "profiling", copy, ignore=shutil.ignore_patterns("__pycache__"))
    before = code_hash(CODE, tmp_path)
    (copy / name).write_text("")
    assert code_hash(CODE, tmp_path) != before


def test_without_time_measurements_are_skipped_and_named(tmp_path: Path) -> None:
    done = run(tmp_path, "--minutes", "0.0001", "--parts", "rates")
    assert done.returncode == 1 and done.stdout.count("skipped") == 2 and not list(tmp_path.glob("*.json"))


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    plain = [sys.executable, "-m", "bench.gpu_suite", "--out", str(tmp_path)]
    done = subprocess.run(plain, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "no CUDA device" in done.stderr and "Traceback" not in done.stderr


def test_a_wrong_back_end_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Depth that is one part in a hundred off is seen."""
    right = bench.rendering.render

    def wrong(*args: object, **options: object) -> bench.rendering.Rendering:
        image = right(*args, **options)  # type: ignore[arg-type]
        factor = 1.01 if options["backend"] == "compiled" else 1.0
        return bench.rendering.Rendering(image.rgb, image.depth * factor, image.alpha)

    monkeypatch.setattr(bench.rendering, "render", wrong)
    differences = rendering.differences(Case(1, 1, 16, 100), "compiled", torch.device("cpu"), "reference")
    assert differences["depth"] > rendering.TOLERANCE > differences["rgb"]


def test_values_that_are_not_numbers_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever they are: max() would ignore them behind the first value."""
    right = bench.rendering.render

    def wrong(*args: object, **options: object) -> bench.rendering.Rendering:
        image = right(*args, **options)  # type: ignore[arg-type]
        factor = float("nan") if options["backend"] == "compiled" else 1.0
        return bench.rendering.Rendering(image.rgb, image.depth * factor, image.alpha)

    def losses(_: object, device: torch.device, plain: bool) -> dict[str, list[float]]:
        return {"loss": [1.0, float("nan") if plain else 1.0, 1.0]}

    monkeypatch.setattr(bench.rendering, "render", wrong)
    monkeypatch.setattr(training, "trajectory", losses)
    suite = suite_at(tmp_path)
    comparison = rendering.compare(suite, Case(1, 1, 16, 100))
    agreement = training.agree(suite, "ours2")
    assert not comparison["passed"] and math.isnan(comparison["worst"])
    assert not agreement["passed"] and math.isnan(agreement["worst"])


def test_the_bundle_unpacks_to_what_was_packed(tmp_path: Path) -> None:
    folder = tmp_path / "gpu_bundle"
    (folder / "site").mkdir(parents=True)
    (folder / "site" / "package.py").write_text("NAME = 'é'\n" * 1000)
    bundle.pack(folder, tmp_path / "gpu_bundle.tar.xz")
    unpacked = tmp_path / "there"
    unpacked.mkdir()
    subprocess.run(["tar", "-xf", str(tmp_path / "gpu_bundle.tar.xz")], cwd=unpacked, check=True)
    content = (unpacked / "gpu_bundle" / "site" / "package.py").read_bytes()
    assert content == (folder / "site" / "package.py").read_bytes()
    assert (tmp_path / "gpu_bundle.tar.xz").stat().st_size < len(content) / 10


@pytest.mark.skipif(not lpips_weights.path("alex").is_file(), reason="run python -m bench.setup first")
def test_halved_backbones_load_and_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, other = (torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    full = float(lpips_weights.lpips_model("alex")(image, other))
    bundle.write_backbones(tmp_path / "lpips")
    monkeypatch.setenv("EAD_BENCH_CACHE", str(tmp_path))
    assert lpips_weights.backbone_available("alex") and not lpips_weights.path("alex").is_file()
    assert float(lpips_weights.lpips_model("alex")(image, other)) == pytest.approx(full, abs=1e-3)
