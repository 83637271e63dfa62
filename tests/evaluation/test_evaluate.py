"""Evaluation end to end on analytic balls: baselines, per-scene and per-view numbers, samples, missing LPIPS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.balls import Balls

from bench import protocols
from bench.config.schema import RunSpec, ViewsSpec
from bench.data.batch import Batch
from bench.data.sampler import Sampler
from bench.data.sources import procedural
from bench.data.view_selection import rig
from bench.evaluation import baselines, evaluate, metrics
from bench.runs.folder import RunFolder
from bench.runs.writer import PlainWriter
from models import weights
from models.aggregators import self_attention
from models.ead import EAD, EADSpec
from models.encoders import conv
from models.heads import linear
from models.outputs import gaussians
from models.outputs.gaussians import SH_C0
from models.tensors import Gaussians, Views

SIZE, COUNT = 32, 3


class OrderedWriter(PlainWriter):
    """Remembers in which order things became visible."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.order: list[str] = []

    def commit(self, name: str, write: Callable[[Path], None]) -> None:
        super().commit(name, write)
        self.order.append(name)


@pytest.fixture(scope="module")
def spec() -> RunSpec:
    aggregator = self_attention.Spec(blocks=1, heads=2, table_size=SIZE)
    output = gaussians.Spec(sh_degree=0, scale_max=0.08, color_residual=True)
    model = EADSpec(conv.Spec(patch=8, width=64), aggregator, linear.Spec(), output, image_size=SIZE)
    return RunSpec(model, procedural.Spec(), ViewsSpec(rig.Spec()), losses={})


@pytest.fixture(scope="module")
def evaluated(spec: RunSpec, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("run")
    model = spec.model.build(seed=0)
    weights.save_spec(model, folder / weights.SPEC_FILE)
    weights.save_weights(model, folder / weights.WEIGHTS_FILE)
    writer = OrderedWriter(folder)
    evaluate.evaluate(spec, writer, device=torch.device("cpu"), source=Balls(SIZE, COUNT), protocol="per_image_white")
    results = [name for name in writer.order if not name.startswith("evaluating-")]
    assert results == ["samples", "evals/per_image_white@1.json"]  # the result, which marks completion, comes last
    return folder, RunFolder(folder).evaluations()["per_image_white@1"]


def test_the_result_says_what_was_measured(evaluated: tuple[Path, dict[str, Any]], spec: RunSpec) -> None:
    result = evaluated[1]
    assert result["protocol"]["name"] == "per_image_white" and result["protocol"]["version"] == 1
    assert result["scenes"] == [f"evaluation/{i}" for i in range(3)]
    assert len(result["views"]["evaluation/0"]["inputs"]) == spec.views.inputs
    assert not set(result["views"]["evaluation/0"]["inputs"]) & set(result["views"]["evaluation/0"]["targets"])
    assert result["parameters"]["total"] == sum(result["parameters"][p] for p in ("encoder", "aggregator", "head"))
    for name, value in result["means"].items():
        scenes = [result["per_scene"][s][name] for s in result["scenes"]]
        assert value == pytest.approx(np.mean([v for v in scenes if v is not None])), name
        assert scenes[0] == pytest.approx(np.mean(result["per_view"]["evaluation/0"][name])), name
    metrics = protocols.get("per_image_white").metrics
    assert set(result["means"]) | set(result["missing"]) == {metric.name for metric in metrics if not metric.optional}
    assert set(result["baselines"]) == {"white", "nearest", "mean", "flat"}
    assert [name for name, b in result["baselines"].items() if b["oracle"]] == ["flat"]


def test_samples_hold_what_the_figures_need(evaluated: tuple[Path, dict[str, Any]]) -> None:
    samples = np.load(evaluated[0] / "samples" / "evaluation.npz")
    assert samples["inputs"].shape == samples["truth"].shape == samples["rendered"].shape == (3, 4, SIZE, SIZE, 3)
    assert samples["depth"].shape == samples["mask"].shape == (3, SIZE, SIZE) and samples["mask"].any((1, 2)).all()
    inside = samples["true_depth"][samples["mask"]]
    assert 1.1 < inside.min() < inside.max() < 1.6


def test_missing_backbones_leave_cells_empty_and_say_so(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EAD_BENCH_CACHE", str(tmp_path))
    measure = metrics.ImageMetrics(protocols.get("per_image_white"))
    assert set(measure.missing) == {"lpips_vgg", "lpips_alex"} and "bench.setup" in measure.missing["lpips_vgg"]
    batch = Sampler(Balls(SIZE, COUNT), spec.views, 0).evaluation(["evaluation/0"])
    assert (
        "lpips_vgg"
        not in measure({"white": torch.ones_like(batch.targets)}, batch.targets, batch.target_alpha > 0.5)["white"]
    )


def test_baselines(spec: RunSpec) -> None:
    batch = Sampler(Balls(SIZE, COUNT), spec.views, 0).evaluation(["evaluation/0", "evaluation/2"])
    white, nearest, mean, flat = (
        b.predict(batch, 0.5) for b in baselines.baselines_of(protocols.get("per_image_white"))
    )
    assert torch.equal(white, torch.ones_like(batch.targets))
    torch.testing.assert_close(mean[1, 2], batch.inputs.images[1].mean(0))
    for scene in range(2):
        for target in range(batch.targets.shape[1]):
            gaps = batch.input_cameras.centers[scene] - batch.target_cameras.centers[scene, target]
            torch.testing.assert_close(
                nearest[scene, target], batch.inputs.images[scene, int(gaps.norm(dim=-1).argmin())]
            )
    mask = batch.target_alpha[0, 0] > 0.5
    assert bool((flat[0, 0][:, ~mask] == 1).all())
    expected = batch.targets[0, 0][:, mask].mean(-1, keepdim=True).expand(-1, int(mask.sum()))
    torch.testing.assert_close(flat[0, 0][:, mask], expected)


class Perfect(EAD):
    """Gaussians on the true surface of a batch with the true colors, whatever the weights."""

    def __init__(self, spec: EADSpec, batch: Batch) -> None:
        super().__init__(spec, seed=0)
        self.batch = batch

    def forward(self, views: Views) -> Gaussians:
        shape = self.batch.input_mask.shape
        return Gaussians(
            means=self.batch.input_points,
            rotations=torch.tensor([1.0, 0, 0, 0]).expand(*shape, 4),
            scales=torch.full((*shape, 3), 0.002),
            opacities=self.batch.input_mask.float() * 0.99,
            harmonics=((views.images - 0.5) / SH_C0).permute(0, 1, 3, 4, 2)[..., None, :],
        )


def test_true_geometry_has_no_error_and_beats_the_baselines(spec: RunSpec) -> None:
    """What a perfect model would score through this pipeline."""
    batch = Sampler(Balls(SIZE, COUNT), spec.views, 0).evaluation(["evaluation/0", "evaluation/1"])
    model, protocol = Perfect(spec.model, batch), protocols.get("per_image_white")
    record = {"chunk": 0, "broken": [], **evaluate.score_batch(model, batch, metrics.ImageMetrics(protocol))}
    assert record["defects"] == []
    result = evaluate.combine(model, [record], protocol)
    means, others = result["means"], [b["means"] for b in result["baselines"].values() if not b["oracle"]]
    assert means["point_error"] == 0 and means["depth_error"] < 0.08
    assert means["grid_ratio"] == pytest.approx(means["grid_ratio_true"])
    assert means["psnr_foreground"] > 20 and all(means["psnr_foreground"] > b["psnr_foreground"] + 4 for b in others)
