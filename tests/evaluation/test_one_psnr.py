"""Validation, evaluation and `--overfit` compute the same PSNR: the protocol's, whatever the model renders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.balls import Balls
from support.paths import ROOT
from support.training import CPU, spec

from bench import protocols
from bench.config.schema import EvaluationSpec, RunSpec
from bench.data.sampler import Sampler
from bench.evaluation import baselines, overfit
from bench.evaluation.evaluate import evaluate, predict
from bench.runs.folder import RunFolder
from bench.runs.writer import PlainWriter
from bench.training.best_checkpoint import validation_psnr
from models import weights
from models.ead import EAD

SIZE = 32
SCENES = 2
BLACK = """
from dataclasses import replace

from bench.protocols.per_image_white import PROTOCOL as WHITE

PROTOCOL = replace(WHITE, name="per_image_black", background="black")
"""


def of(**views: Any) -> RunSpec:
    small = spec(steps=2)
    aggregator = replace(small.model.aggregator, table_size=SIZE)  # type: ignore[call-arg]
    model = replace(small.model, image_size=SIZE, aggregator=aggregator)
    return replace(small, model=model, views=replace(small.views, **views), evaluation=EvaluationSpec(scenes=SCENES))


@pytest.fixture
def model() -> EAD:
    """Random weights that render colors above 1, which clipping changes."""
    model = of().model.build(0)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.mul_(30)
    sampler = Sampler(Balls(SIZE), of().views, 0)
    rendering = predict(model, sampler.evaluation(["evaluation/0"]))[1]
    assert rendering is not None
    rgb = rendering.rgb
    assert float(rgb.max()) > 1.1 and float(rgb.std()) > 0.05
    return model


@pytest.fixture(params=["white", "black"])
def protocol(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> protocols.Protocol:
    """The committed protocol, and one that differs in its background."""
    if request.param == "white":
        return protocols.get("per_image_white")
    (tmp_path / "per_image_black.py").write_text(BLACK)
    monkeypatch.setattr(protocols, "__path__", [*protocols.__path__, str(tmp_path)])
    return protocols.get("per_image_black")


def evaluated(folder: Path, model: EAD, run: RunSpec, protocol: protocols.Protocol) -> dict[str, Any]:
    weights.save_spec(model, folder / weights.SPEC_FILE)
    weights.save_weights(model, folder / weights.WEIGHTS_FILE)
    evaluate(run, PlainWriter(folder), device=CPU, source=Balls(SIZE), protocol=protocol.name)
    return RunFolder(folder).evaluations()[protocol.key]


def test_validation_is_evaluation(tmp_path: Path, model: EAD, protocol: protocols.Protocol) -> None:
    """The balls of the validation split are those of the evaluation split."""
    result = evaluated(tmp_path, model, of(), protocol)
    scenes = Balls(SIZE).scenes("validation")[:SCENES]
    value = validation_psnr(model, Sampler(Balls(SIZE), of().views, 0), scenes, protocol)
    assert value == pytest.approx(result["means"]["psnr"], abs=1e-6)


def test_the_overfit_check_is_evaluation(tmp_path: Path, model: EAD, protocol: protocols.Protocol) -> None:
    run = replace(of(overfit=1), evaluation=EvaluationSpec((protocol.name,)))
    result = evaluated(tmp_path, model, run, protocol)
    verdict = overfit.check_overfit(run, tmp_path, device=CPU, source=Balls(SIZE))
    assert verdict.value("target views") == pytest.approx(result["means"]["psnr"], abs=1e-5)


def test_the_background_of_a_protocol_decides_what_is_compared(
    tmp_path: Path, model: EAD, protocol: protocols.Protocol
) -> None:
    """The baseline of background alone is named after it, and all of it is wrong on the object alone."""
    result = evaluated(tmp_path, model, of(), protocol)
    assert list(result["baselines"]) == [protocol.background, "nearest", "mean", "flat"]
    assert result["baselines"][protocol.background]["label"] == f"{protocol.background} image"
    batch = Sampler(Balls(SIZE), of().views, 0).evaluation(result["scenes"], protocol.background_gray)
    corner = batch.targets[..., 0, 0]
    assert corner.eq(protocol.background_gray).all() and batch.inputs.images[..., 0, 0].eq(1).all()
    error = (batch.targets - protocol.background_gray).double().square().mean((-3, -2, -1))
    expected = float((-10 * error.log10()).mean())
    assert result["baselines"][protocol.background]["means"]["psnr"] == pytest.approx(expected, abs=1e-4)


def test_baselines_of_inputs_are_on_the_background_too() -> None:
    sampler = Sampler(Balls(SIZE), of().views, 0)
    for gray in (1.0, 0.0):
        batch = sampler.evaluation(["evaluation/0"], gray)
        for baseline in baselines.baselines_of(protocols.get("per_image_white")):
            corner = baseline.predict(batch, 0.5)[..., 0, 0]
            torch.testing.assert_close(corner, torch.full_like(corner, gray), atol=1e-6, rtol=0)


def test_every_field_of_a_protocol_drives_the_computation() -> None:
    """Fields that nothing reads say things that may not be true."""
    source = "".join(path.read_text() for path in (ROOT / "bench").rglob("*.py"))
    for name in protocols.get("per_image_white").to_dict():
        assert f"protocol.{name}" in source or f"self.{name}" in source, name
