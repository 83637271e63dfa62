"""A finished sweep, as bench.run leaves it, written from made-up results: what tests of tables, figures, reports and
published summaries read. Nothing is trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import config, protocols
from bench.common.json_files import write_json
from bench.config import Run
from bench.execution.session import sweep_lines
from bench.runs.folder import RunFolder, Status, write_sweep
from bench.runs.states import State
from support.paths import ROOT

PROTOCOL = protocols.get("per_image_white")
NASTY = '<script>alert("x")</script> & <img src=http://example.org/a.png onerror=b>'
ENVIRONMENT = {"commit": "0123456789abcdef0123456789abcdef01234567+", "device_name": "a processor", "threads": 2}
SCENES = 16

BASELINES = {
    "white": ("white image", False, 12.9, 9.0),
    "nearest": ("nearest input view", False, 18.3, 14.0),
    "mean": ("mean of the inputs", False, 18.1, 14.3),
    "flat": ("flat mean color in the true mask (oracle)", True, 22.5, 17.5),
}
RESULTS: dict[tuple[str, int], tuple[State, float, float]] = {  # setting, seed → state, PSNR, FG PSNR
    ("FreeSplatter", 0): (State.DONE, 18.0, 14.1),
    ("FreeSplatter", 1): (State.DONE, 18.4, 14.2),
    ("Ours1", 0): (State.DONE, 19.0, 15.0),
    ("Ours1", 1): (State.DONE, 19.3, 15.1),
    ("Ours2", 0): (State.FAILED, 0, 0),
    ("Ours2", 1): (State.PLANNED, 0, 0),
}


def evaluation(psnr: float, foreground: float, scenes: int = SCENES) -> dict[str, Any]:
    """A result whose scenes differ by the same offsets in every run, so that differences do not depend on the scene."""
    names = [f"evaluation/{i}" for i in range(scenes)]
    means = {"psnr": psnr, "psnr_foreground": foreground, "ssim": psnr / 40, "lpips_vgg": None, "depth_error": 0.1234,
             "grid_ratio": 2.0}  # fmt: skip
    offsets = np.linspace(-3, 3, scenes)
    return {
        "protocol": PROTOCOL.to_dict(),
        "scenes": names,
        "views": {"evaluation/0": {"inputs": [0, 6, 12, 18], "targets": [1, 2, 3, 4]}},
        "parameters": {"encoder": 100, "aggregator": 300_000_000, "head": 7_941_724, "total": 307_941_824},
        "means": means,
        "per_scene": {name: means | {"psnr": psnr + offset} for name, offset in zip(names, offsets, strict=True)},
        "baselines": {
            name: {"label": label, "oracle": oracle, "means": {"psnr": p, "psnr_foreground": f, "ssim": 0.4}}
            for name, (label, oracle, p, f) in BASELINES.items()
        },
        "missing": {"lpips_vgg": "no trained backbone on this machine: run `python -m bench.setup`"},
        "data": {"name": "procedural", "version": "1"},
        "image_size": 32,
    }


def profile(step: float) -> dict[str, Any]:
    definitions = {"step_time_ms": "median wall time of 10 steps", "host_peak_memory_gib": "peak resident memory"}
    return {
        "step_time_ms": step, "step_time_ms_p10": step - 10, "step_time_ms_p90": step + 20, "host_peak_memory_gib": 1.5,
        "reserved_peak_memory_gib": None, "allocated_peak_memory_gib": 0.5,
        "estimate": {"allocated_peak_memory_gib": 0.505, "step_time_ms": 2 * step},
        "batch": 16, "threads": 2, "world": 1, "device": "a processor",
        "load_average": 0.5, "definitions": definitions,
    }  # fmt: skip


def samples(folder: Path, shift: float) -> None:
    """samples/evaluation.npz of two scenes of 16 px."""
    random = np.random.default_rng(0)
    pictures = {k: random.integers(0, 255, (2, 4, 16, 16, 3), dtype=np.uint8) for k in ("inputs", "truth", "rendered")}
    depth = random.random((2, 16, 16)).astype(np.float32)
    mask = np.zeros((2, 16, 16), bool)
    mask[:, 4:12, 4:12] = True
    folder.mkdir(exist_ok=True)
    named = {"scene": np.array(["a", "b"]), "depth": depth + shift, "true_depth": depth, "mask": mask}
    np.savez_compressed(folder / "evaluation.npz", **pictures, **named)


def write_run(folder: RunFolder, run: Run, state: State, psnr: float, foreground: float, step_ms: float) -> None:
    """What a run in this state leaves behind."""
    if state is State.PLANNED:
        return
    write_json(folder.path / "spec.json", {"id": run.id, "label": run.label, "spec": config.to_dict(run.spec)})
    write_json(folder.path / "environment.json", ENVIRONMENT)
    records = [
        {"step": s, "step_time_ms": step_ms, "loss/points": 1 / s} | ({"loss/mse": 0.1 / s} if s > 4 else {})
        for s in range(1, 12)
    ]
    (folder.path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if state is State.DONE:
        folder.set_status(Status(state))
        write_json(folder.path / "evals" / f"{PROTOCOL.key}.json", evaluation(psnr, foreground))
        write_json(folder.path / "profiles" / "cpu-1.json", profile(step_ms))
        samples(folder.path / "samples", step_ms / 1000)
    else:
        folder.set_status(Status(state, "train", NASTY, "Traceback: the last line"))
        (folder.path / "log.txt").write_text("a log\n")


def record_sweep(
    results: Path, spec: Path = ROOT / "ablations" / "table3.yaml", overrides: Sequence[str] = (), scale: str = "tiny"
) -> tuple[Path, list[Run]]:
    """(the sweep's folder, its runs): sweep.json, runs.jsonl, environment.json, without any result."""
    sweep = config.load(spec, overrides, scale)
    record = {"name": sweep.name, "scale": scale, "question": f"Which? {NASTY}", "overrides": list(overrides),
              "spec": f"ablations/{spec.name}", "bases": config.bases_at_paper_scale(sweep),
              "reference": sweep.reference}  # fmt: skip
    folder = results / f"{sweep.name}_{scale}"
    write_sweep(folder, record, sweep_lines(sweep, results), ENVIRONMENT)
    return folder, sweep.runs


def write_finished_sweep(results: Path, scale: str = "tiny") -> Path:
    """table3 with two seeds and RESULTS: two finished settings, one that failed, one that was not started."""
    overrides = ("train.steps=60", "seeds=[0, 1]")
    folder, runs = record_sweep(results, overrides=overrides, scale=scale)
    for i, run in enumerate(runs):
        label, _, seed = run.label.partition(", seed ")
        write_run(RunFolder(results / "runs" / run.id), run, *RESULTS[label, int(seed)], step_ms=200.0 + 5 * i)
    record_sweep(results, overrides=overrides, scale=scale)  # again: runs.jsonl holds their states
    return folder
