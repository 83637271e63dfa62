"""No stage depends on what ran before it in the same process: each sets torch's global state itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.balls import Balls
from support.training import CPU, run, spec

from bench.config.schema import RunSpec
from bench.evaluation import overfit
from bench.evaluation.evaluate import evaluate
from bench.profiling import step_profile, trace
from bench.runs.folder import RunFolder
from bench.runs.writer import PlainWriter
from bench.runtime import numerics
from bench.training.train import train
from models import weights

SIZE = 32


def of(**changes: Any) -> RunSpec:
    """The small run of tests/training/test_train.py at a size at which LPIPS can be computed."""
    small = spec(**{"steps": 2, "matmul_precision": "high"} | changes)
    aggregator = replace(small.model.aggregator, table_size=SIZE)  # type: ignore[call-arg]
    return replace(small, model=replace(small.model, image_size=SIZE, aggregator=aggregator), seed=3)


@pytest.fixture(autouse=True)
def unhooked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The tests check shapes, under which measuring refuses to run; the settings of other tests come back."""
    finders = [finder for finder in sys.meta_path if not type(finder).__module__.startswith("jaxtyping")]
    monkeypatch.setattr(sys, "meta_path", finders)
    before = torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.use_deterministic_algorithms(before[1])
    torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = False


def disturb() -> None:
    """Whatever an earlier stage of another run may have left."""
    torch.set_float32_matmul_precision("medium")
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = True
    torch.manual_seed(12345)


def memorized(folder: Path) -> None:
    one = replace(of(), views=replace(of().views, overfit=1))
    overfit.check_overfit(one, folder, device=CPU, source=Balls(SIZE))


STAGES: dict[str, Callable[[Path], None]] = {
    "train": lambda folder: train(of(), PlainWriter(folder / "again"), device=CPU, source=Balls(SIZE)),
    "train, without steps": lambda folder: train(
        replace(of(), train=replace(of().train, steps=0)), PlainWriter(folder / "given"), device=CPU, source=Balls(SIZE)
    ),
    "evaluate": lambda folder: evaluate(of(), PlainWriter(folder), device=CPU, source=Balls(SIZE)),
    "profile": lambda folder: step_profile.profile(of(), PlainWriter(folder), device=CPU, source=Balls(SIZE)),
    "trace": lambda folder: trace.trace(of(), PlainWriter(folder), device=CPU, source=Balls(SIZE)),
    "overfit": memorized,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(of(), PlainWriter(folder), device=CPU, source=Balls(SIZE))
    return folder


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_sets_all_global_state_itself(trained: Path, stage: str) -> None:
    disturb()
    STAGES[stage](trained)
    assert numerics.precision_settings() == {
        "default_dtype": "float32",
        "float32_matmul_precision": "highest" if stage in ("evaluate", "overfit") else "high",
        "cuda_matmul_allow_tf32": stage not in ("evaluate", "overfit"),
        "cudnn_allow_tf32": True,
        "cudnn_benchmark": False,
        "cudnn_deterministic": False,
        "deterministic_algorithms": True,
    }
    assert torch.initial_seed() == 3


def test_an_evaluation_is_the_same_alone_and_after_a_training_with_another_precision(tmp_path: Path) -> None:
    folders = tmp_path / "alone", tmp_path / "after"
    for folder in folders:
        model = of().model.build(0)
        folder.mkdir()
        weights.save_spec(model, folder / weights.SPEC_FILE)
        weights.save_weights(model, folder / weights.WEIGHTS_FILE)
    evaluate(of(), PlainWriter(folders[0]), device=CPU, source=Balls(SIZE))
    run(tmp_path / "other", spec(steps=1, matmul_precision="medium"))  # bf16 products, where the processor has them
    assert torch.get_float32_matmul_precision() == "medium"
    evaluate(of(), PlainWriter(folders[1]), device=CPU, source=Balls(SIZE))
    alone, after = (RunFolder(folder).evaluations()["per_image_white@1"] for folder in folders)
    assert torch.get_float32_matmul_precision() == "highest"
    assert json.dumps(alone["per_view"]) == json.dumps(after["per_view"])
    assert alone["baselines"] == after["baselines"]


def test_validation_is_as_precise_as_evaluation_and_training_continues_as_before(tmp_path: Path) -> None:
    best = of(matmul_precision="medium", keep="best", validations=1)
    train(best, PlainWriter(tmp_path), device=CPU, source=Balls(SIZE))
    assert torch.get_float32_matmul_precision() == "medium"
    evaluate(best, PlainWriter(tmp_path), device=CPU, source=Balls(SIZE))
    (evaluation,) = RunFolder(tmp_path).evaluations().values()
    kept = (RunFolder(tmp_path).training() or {})["kept"]["validation_psnr"]
    assert kept == pytest.approx(evaluation["means"]["psnr"], abs=1e-9)  # both splits hold the same balls
