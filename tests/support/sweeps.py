"""Stages of a run, as files hold them: what tests of tables, figures and reports read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench import protocols

PROTOCOL = protocols.get("per_image_white")

BASELINES = {
    "white": ("white image", False, 12.9, 9.0),
    "nearest": ("nearest input view", False, 18.3, 14.0),
    "mean": ("mean of the inputs", False, 18.1, 14.3),
    "flat": ("flat mean color in the true mask (oracle)", True, 22.5, 17.5),
}


def evaluation(psnr: float, foreground: float) -> dict[str, Any]:
    means = {"psnr": psnr, "psnr_foreground": foreground, "ssim": 0.5, "lpips_vgg": None, "depth_error": 0.1234}
    return {
        "protocol": PROTOCOL.to_dict(),
        "scenes": ["evaluation/0", "evaluation/1"],
        "views": {"evaluation/0": {"inputs": [0, 6, 12, 18], "targets": [1, 2, 3, 4]}},
        "parameters": {"encoder": 100, "aggregator": 300_000_000, "head": 7_941_724, "total": 307_941_824},
        "means": means | {"grid_ratio": 2.0},
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
        "step_time_ms": step, "host_peak_memory_gib": 1.5, "reserved_peak_memory_gib": None, "batch": 16,
        "device": "a processor", "definitions": definitions,
    }  # fmt: skip


def samples(folder: Path, shift: float) -> None:
    random = np.random.default_rng(0)
    pictures = {k: random.integers(0, 255, (2, 4, 16, 16, 3), dtype=np.uint8) for k in ("inputs", "truth", "rendered")}
    depth = random.random((2, 16, 16)).astype(np.float32)
    mask = np.zeros((2, 16, 16), bool)
    mask[:, 4:12, 4:12] = True
    folder.mkdir()
    named = {"scene": np.array(["a", "b"]), "depth": depth + shift, "true_depth": depth, "mask": mask}
    np.savez_compressed(folder / "evaluation.npz", **pictures, **named)
