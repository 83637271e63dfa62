"""`--overfit 1`: models memorize a scene at tiny scale, and a planted fault keeps one from it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.paths import ROOT

from bench import config
from bench.data.sampler import open_source
from bench.data.scene import DataSource, SceneData
from bench.evaluation import overfit
from bench.runs.writer import PlainWriter
from bench.training.train import train

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

BASES = ROOT / "ablations" / "base"
SCENES = [f"data.{split}_scenes=16" for split in ("training", "validation", "evaluation")]
CPU = torch.device("cpu")


@dataclass
class TransposedTargets:
    """A source whose target cameras have their world-to-camera rotation the wrong way round: a classic fault."""

    source: DataSource
    inputs: int

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def read(self, scene: str, views: Sequence[int]) -> SceneData:
        data = self.source.read(scene, views)
        world_to_camera = np.linalg.inv(data.camera_to_world)
        targets = world_to_camera[self.inputs :, :3, :3]
        world_to_camera[self.inputs :, :3, :3] = targets.transpose(0, 2, 1)
        return replace(data, camera_to_world=np.linalg.inv(world_to_camera))


def verdict(folder: Path, model: str, transposed: bool = False) -> overfit.OverfitVerdict:
    """Of a base spec under the settings of `bench.evaluation.overfit`."""
    path = BASES / f"{model}.yaml"
    specs = [run.spec for run in config.load(path, scale="tiny").runs]
    (run,) = config.load(path, [*overfit.overrides(1, specs), *SCENES], "tiny").runs
    source: Any = open_source(run.spec.data, run.spec.model.image_size, progress=False)
    source = TransposedTargets(source, run.spec.views.inputs) if transposed else source
    started = time.process_time()
    train(run.spec, PlainWriter(folder), device=CPU, source=source)
    seconds = time.process_time() - started
    result = overfit.check_overfit(run.spec, folder, device=CPU, source=source)
    print(f"{model}: {result}, after {seconds:.0f} core-seconds")
    return result


@pytest.mark.parametrize("model", sorted(path.stem for path in BASES.glob("*.yaml")))
def test_one_scene_is_memorized(tmp_path: Path, model: str) -> None:
    assert verdict(tmp_path, model).passed


def test_transposed_rotation_is_noticed(tmp_path: Path) -> None:
    result = verdict(tmp_path, "ours1", transposed=True)
    assert not result.passed and [c.passed for c in result.criteria if c.name == "other views"] == [False]
