"""The output contract: a throw-away type of two files trains, is evaluated and previewed without any other edit."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from support.balls import Balls
from support.training import CPU, SIZE, spec

import models.outputs
from bench import config, outputs
from bench.common.errors import ConfigError
from bench.config.schema import EvaluationSpec, RunSpec
from bench.data.sampler import Sampler
from bench.evaluation.evaluate import evaluate
from bench.losses import completion, mse, points
from bench.runs.folder import RunFolder
from bench.runs.writer import PlainWriter
from bench.training import preview
from bench.training.train import train
from models import parts
from models.tensors import Gaussians, Pixels, PointMap

MODEL_FILE = """
from dataclasses import dataclass
from torch import Tensor, nn
from models.parts import OutputSpec
from models.tensors import TensorDataclass

@dataclass(frozen=True)
class Blobs(TensorDataclass):
    centers: Tensor
    colors: Tensor

@dataclass(frozen=True)
class Spec(OutputSpec):
    kind = "blobs"

    def channels(self):
        return {"centers": 3, "colors": 3}

    def build(self):
        return Meaning()

class Meaning(nn.Module):
    def forward(self, dense, views):
        return Blobs(dense.channels["centers"], dense.channels["colors"])
"""
BENCH_FILE = """
import torch
from bench.outputs import OutputType
from bench.rendering import render
from models.tensors import Gaussians

class BlobsType(OutputType):
    limits = {"health/far": (0.5, "{:.0%} of the blobs are far away")}

    def capabilities(self, model):
        return frozenset({"rendering", "surface_points"})

    def render(self, output, cameras, background):
        shape = output.centers.shape[:-1]
        return render(
            Gaussians(
                output.centers, torch.ones(*shape, 4), torch.full((*shape, 3), 0.03), torch.full(shape, 0.9),
                output.colors[..., None, :],
            ),
            cameras, background,
        )

    def surface_points(self, output):
        return output.centers

    def diagnostics(self, output, batch, spec):
        return {"health/far": (output.centers.norm(dim=-1) > 5).float().flatten(1).mean(1).sum()}

TYPE = BlobsType()
"""


@pytest.fixture
def blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunSpec]:
    """A run whose output type is in files that no package lists."""
    for package, text in ((models.outputs, MODEL_FILE), (outputs, BENCH_FILE)):
        folder = tmp_path / package.__name__
        folder.mkdir()
        (folder / "blobs.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    parts.available.cache_clear()
    output = parts.spec_class("models.outputs", "blobs")()
    run = spec(steps=preview.FIRST_STEPS, geometry_first=0.5)
    yield replace(run, model=replace(run.model, output=output), evaluation=EvaluationSpec(scenes=2))
    for name in ("models.outputs.blobs", "bench.outputs.blobs"):
        sys.modules.pop(name, None)
    for cached in (parts.available, outputs.of_kind):
        cached.cache_clear()


def test_a_new_type_is_two_files(blobs: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EAD_BENCH_CACHE", str(tmp_path / "cache"))  # 16 px are too small for LPIPS
    folder = RunFolder(tmp_path / "run")
    writer = PlainWriter(folder.path)
    train(blobs, writer, device=CPU, source=Balls(SIZE))
    records = folder.metrics()
    assert records[-1]["loss/points"] < records[0]["loss/points"] and "loss/mse" in records[-1]
    assert "health/far" in records[0] and (folder.path / preview.FILE).is_file()
    evaluate(blobs, writer, device=CPU, source=Balls(SIZE))
    (result,) = folder.evaluations().values()
    assert {"psnr", "point_error", "depth_error"} <= set(result["means"])
    assert (folder.path / "samples" / "evaluation.npz").is_file()


def test_a_type_without_a_file_is_named() -> None:
    with pytest.raises(KeyError, match=r"no bench/outputs/mesh\.py: the output types are gaussians"):
        outputs.of_kind("mesh")


@pytest.mark.parametrize("name", outputs.names())
def test_every_file_is_a_type(name: str) -> None:
    type_ = import_module(f"bench.outputs.{name}").TYPE
    assert isinstance(type_, outputs.OutputType) and outputs.of_kind(name) is type_


def sample(kind: str) -> Any:
    batch = Sampler(Balls(SIZE), spec().views, 0).training(0, range(2))
    shape = batch.input_mask.shape
    ones = torch.ones(shape)
    return {
        "gaussians": Gaussians(
            batch.input_points, torch.ones(*shape, 4), torch.ones(*shape, 3), ones, torch.ones(*shape, 1, 3)
        ),
        "pointmap": PointMap(batch.input_points, ones),
        "pixels": Pixels(batch.inputs.images),
    }[kind]


@pytest.mark.parametrize("kind", ["gaussians", "pointmap", "pixels"])
def test_the_share_of_values_that_are_not_finite(kind: str) -> None:
    output = sample(kind)
    assert outputs.non_finite(output).tolist() == [0, 0]
    first = next(outputs.tensors(output))
    first[1].view(-1)[0] = torch.nan
    share = outputs.non_finite(output)
    assert share[0] == 0 and 0 < share[1] < 0.01


def test_gaussians_of_no_pixel_have_no_surface_points() -> None:
    output = sample("gaussians")
    assert outputs.of(output).surface_points(output) is output.means
    assert outputs.of(output.flat()).surface_points(output.flat()) is None


SPEC = """# A loss that the output cannot give.
base: freesplatter
set:
  losses.completion.weight: 1.0
"""


def test_a_loss_that_the_output_cannot_give_is_refused_at_load(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    with pytest.raises(ConfigError, match=rf"{path}:4: .*completion needs images, which output gaussians .*null"):
        config.load(path)
    path.write_text(SPEC.replace("1.0", "0.0"))
    config.load(path)


def test_each_term_names_what_is_missing() -> None:
    model = spec().model
    assert [*mse.Spec().problems(model)] == [*points.Spec().problems(model)] == []
    (problem,) = completion.Spec().problems(model)
    assert "needs images" in problem.message and "losses.completion: null" in problem.message
