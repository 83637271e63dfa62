"""`--overfit 1`: each model of Table 2 memorizes a scene at tiny scale, and a planted fault keeps it from it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from support.paths import ROOT

import bench.rendering
from bench import config
from bench.data.sampler import open_source
from bench.evaluation import overfit
from bench.runs.writer import PlainWriter
from bench.training.train import train

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

BASES = ROOT / "ablations" / "base"
SCENES = [f"data.{split}_scenes=16" for split in ("training", "validation", "evaluation")]
CPU = torch.device("cpu")


def verdict(folder: Path, model: str) -> overfit.OverfitVerdict:
    """Of a base spec under the settings of `bench.evaluation.overfit`."""
    (run,) = config.load(BASES / f"{model}.yaml", [*overfit.overrides(1), *SCENES], "tiny").runs
    source = open_source(run.spec.data, run.spec.model.image_size, progress=False)
    started = time.process_time()
    train(run.spec, PlainWriter(folder), device=CPU, source=source)
    seconds = time.process_time() - started
    found = overfit.check_overfit(run.spec, folder, device=CPU, source=source)
    print(f"{model}: {found}, after {seconds:.0f} core-seconds")
    return found


@pytest.mark.parametrize("model", ["freesplatter", "ours1", "ours2"])
def test_one_scene_is_memorized(tmp_path: Path, model: str) -> None:
    assert verdict(tmp_path, model).passed


def test_transposed_rotation_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The classic fault: world-to-camera rotations applied the other way round."""
    choose = bench.rendering._backend

    def faulty(*choice: Any) -> Any:
        rasterize = choose(*choice)

        def transposed(*args: Any) -> Any:
            world_to_camera = args[5].clone()
            assert world_to_camera.shape[-2:] == (4, 4)
            world_to_camera[..., :3, :3] = args[5][..., :3, :3].transpose(-1, -2)
            return rasterize(*args[:5], world_to_camera, *args[6:])

        return transposed

    monkeypatch.setattr(bench.rendering, "_backend", faulty)
    found = verdict(tmp_path, "ours1")
    assert not found.passed and found.elsewhere < found.blank + overfit.MIN_GAIN_OVER_BLANK
