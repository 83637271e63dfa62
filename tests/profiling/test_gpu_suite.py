"""Every path of the GPU suite, on a CPU at tiny size; and the bundle's backbones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.paths import ROOT

from bench.common.json_files import read_json
from bench.profiling import bundle, gpu_parts
from bench.profiling.benchmarks.rendering import Case
from bench.runtime import lpips_weights


def run(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "bench.gpu_suite",
        "--out",
        str(out),
        "--device",
        "cpu",
        "--size",
        "tiny",
        *arguments,
    ]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.long
def test_every_part_writes_its_json(tmp_path: Path) -> None:
    done = run(tmp_path, "--minutes", "5")
    assert done.returncode == 0, done.stdout + done.stderr
    rendering, cost, training = (read_json(tmp_path / f"{part}.json") for part in gpu_parts.PARTS)
    assert rendering["state"] == cost["state"] == training["state"] == "done"
    assert 0 <= rendering["worst"] < gpu_parts.TOLERANCE
    assert set(cost["models"]) == set(gpu_parts.MODELS)
    for row in cost["models"].values():
        assert row["step_time_ms"] > 0 and row["host_peak_memory_gib"] > 0 and row["reserved_peak_memory_gib"] is None
    assert training["steps"] == 4 and training["means"]["psnr"] > 0 and "white" in training["baselines"]
    assert rendering["provenance"]["torch"] == torch.__version__


def test_without_time_parts_are_skipped_and_named(tmp_path: Path) -> None:
    done = run(tmp_path, "--minutes", "0.0001", "--parts", "cost")
    assert done.returncode == 1 and "skipped" in done.stdout
    assert json.loads((tmp_path / "cost.json").read_text())["state"] == "skipped"


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command = [sys.executable, "-m", "bench.gpu_suite", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "no CUDA device" in done.stderr and "Traceback" not in done.stderr


def test_a_wrong_back_end_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Depth that is one part in a hundred off is seen."""
    import bench.rendering

    right = bench.rendering.render

    def wrong(*args: object, **options: object) -> bench.rendering.Rendering:
        image = right(*args, **options)  # type: ignore[arg-type]
        factor = 1.01 if options["backend"] == "compiled" else 1.0
        return bench.rendering.Rendering(image.rgb, image.depth * factor, image.alpha)

    monkeypatch.setattr(bench.rendering, "render", wrong)
    differences = gpu_parts.differences(Case(1, 1, 16, 100), "compiled", torch.device("cpu"), "reference")
    assert differences["depth"] > gpu_parts.TOLERANCE > differences["rgb"]


@pytest.mark.skipif(not lpips_weights.path("alex").is_file(), reason="run python -m bench.setup first")
def test_halved_backbones_load_and_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, other = (torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    full = float(lpips_weights.lpips_model("alex")(image, other))
    bundle.write_backbones(tmp_path / "lpips")
    monkeypatch.setenv("EAD_BENCH_CACHE", str(tmp_path))
    assert lpips_weights.backbone_available("alex") and not lpips_weights.path("alex").is_file()
    assert float(lpips_weights.lpips_model("alex")(image, other)) == pytest.approx(full, abs=1e-3)
