"""Evaluation over ranks, resumed after a kill, and of models whose output is not finite."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.balls import Balls
from support.paths import TESTS
from support.training import CPU, spec

from bench.common.errors import NonFinite, UserError
from bench.common.json_files import read_lines
from bench.config import load, to_dict
from bench.config.schema import EvaluationSpec, FromRun, InitSpec, RunSpec
from bench.data.sampler import open_source
from bench.evaluation.evaluate import MAX_SCENES, evaluate
from bench.evaluation.scores import Scores
from bench.execution.launcher import Task, prepare_run_folder
from bench.runs.folder import RunFolder
from bench.runs.writer import PlainWriter
from bench.training import initialization
from bench.training.train import train
from models import weights
from models.published import WeightsError

SIZE = 32
KEY = "per_image_white@1"
COUNT = 3 * MAX_SCENES + 2  # four chunks, of which the last is smaller
NUMBERS = ("scenes", "means", "per_scene", "per_view", "views", "baselines", "parameters", "broken")


def of() -> RunSpec:
    """Of support.training, at a size that LPIPS takes."""
    run = spec()
    aggregator = replace(run.model.aggregator, table_size=SIZE)  # type: ignore[call-arg]
    model = replace(run.model, image_size=SIZE, aggregator=aggregator)
    return replace(run, model=model, evaluation=EvaluationSpec(scenes=COUNT))


def trained(folder: Path, seed: int = 0) -> Path:
    """A run's folder with a model in it."""
    folder.mkdir(parents=True, exist_ok=True)
    model = of().model.build(seed)
    weights.save_spec(model, folder / weights.SPEC_FILE)
    weights.save_weights(model, folder / weights.WEIGHTS_FILE)
    return folder


def evaluated(folder: Path, **options: Any) -> dict[str, Any]:
    evaluate(of(), PlainWriter(folder), device=CPU, source=Balls(SIZE, COUNT), **options)
    return RunFolder(folder).evaluations()[KEY]


def numbers(result: dict[str, Any]) -> dict[str, Any]:
    return {name: result[name] for name in NUMBERS}


SPEC = """# Do ranks evaluate the same?
base: freesplatter
set:
  model: {encoder.width: 48, aggregator: {blocks: 1, heads: 2}}
  train: {steps: 2, batch: 2, warmup_steps: 1, geometry_first: 0}
  data: {name: procedural, training_scenes: 16, validation_scenes: 16, evaluation_scenes: 32}
  evaluation.scenes: 20
  losses.lpips: null
"""

KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import torch
torch.set_num_threads(1)
from bench.runs.writer import PlainWriter
from evaluation import test_evaluate_at_scale as here

class Killed(PlainWriter):
    appended = 0

    def append(self, name, record):
        super().append(name, record)
        self.appended += 1
        if self.appended == 2:
            os.kill(os.getpid(), signal.SIGKILL)

source = here.Balls(here.SIZE, here.COUNT)
here.evaluate(here.of(), Killed(Path(sys.argv[1])), device=here.CPU, source=source)
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As the processes that these tests start."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return evaluated(trained(tmp_path_factory.mktemp("alone")))


def start(command: list[str], **environment: object) -> subprocess.Popen[str]:
    variables = os.environ | {key: str(value) for key, value in environment.items()}
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_two_ranks_give_the_numbers_of_one(tmp_path: Path) -> None:
    """Three chunks of a trained run, through the worker that srun starts once a rank."""
    (tmp_path / "spec.yaml").write_text(SPEC)
    (planned,) = load(tmp_path / "spec.yaml").runs
    results = {}
    for world in (1, 2):
        folder = RunFolder(tmp_path / str(world) / "runs" / planned.id)
        prepare_run_folder(Task(folder, "ranks", to_dict(planned.spec)))
        if world == 1:
            source = open_source(planned.spec.data, planned.spec.model.image_size, progress=False)
            train(planned.spec, PlainWriter(folder.path), device=CPU, source=source)
            for name in (weights.SPEC_FILE, weights.WEIGHTS_FILE, "scenes.json", "train.json"):
                (tmp_path / name).write_bytes((folder.path / name).read_bytes())
        else:
            for name in (weights.SPEC_FILE, weights.WEIGHTS_FILE, "scenes.json", "train.json"):
                (folder.path / name).write_bytes((tmp_path / name).read_bytes())
        slurm = {"SLURM_STEP_NUM_TASKS": world, "SLURM_JOB_ID": 7, "SLURM_STEP_NUM_NODES": 1}
        command = [sys.executable, "-m", "bench.work", str(folder.path), "--threads", "1"]
        processes = [start(command, SLURM_PROCID=rank, SLURM_LOCALID=rank, **slurm) for rank in range(world)]
        outputs = [process.communicate(timeout=200)[0] for process in processes]
        assert [process.returncode for process in processes] == [0] * world, outputs
        results[world] = folder.evaluations()[KEY]
        assert results[world]["world"] == world and len(results[world]["scenes"]) == 20
        assert not list(folder.path.glob("evaluating-*"))
    assert numbers(results[2]) == numbers(results[1])


def test_a_killed_evaluation_keeps_its_finished_scenes(tmp_path: Path, alone: dict[str, Any]) -> None:
    folder = trained(tmp_path)
    process = start([sys.executable, "-c", KILLED, str(folder), str(TESTS)])
    output = process.communicate(timeout=200)[0]
    assert process.returncode == -signal.SIGKILL, output
    assert RunFolder(folder).evaluations() == {}
    (partial,) = folder.glob("evaluating-*.jsonl")
    assert [record.get("chunk") for record in read_lines(partial)] == [None, 0]
    result = evaluated(folder)
    assert result["resumed_chunks"] == 1 and numbers(result) == numbers(alone)
    assert not partial.exists()


def test_other_weights_restart_the_evaluation(tmp_path: Path) -> None:
    class Interrupted(PlainWriter):
        def append(self, name: str, record: Any) -> None:
            super().append(name, record)
            raise KeyboardInterrupt

    folder = trained(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        evaluate(of(), Interrupted(folder), device=CPU, source=Balls(SIZE, COUNT))
    trained(folder, seed=1)
    assert evaluated(folder)["resumed_chunks"] == 0


def overflowing(folder: Path) -> None:
    """Finite weights whose products are not: an output that is NaN or infinite."""
    state = load_file(folder / weights.WEIGHTS_FILE)
    state["head.linear.weight"] = torch.full_like(state["head.linear.weight"], 3e38)
    save_file(state, folder / weights.WEIGHTS_FILE)


def test_an_output_that_is_not_finite_is_not_scored(tmp_path: Path) -> None:
    overflowing(trained(tmp_path))
    with pytest.raises(NonFinite, match=r"evaluation/0: [\d.]+% of the model's output.*not scored"):
        evaluated(tmp_path)
    assert RunFolder(tmp_path).evaluations() == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    folder = trained(tmp_path / "aaa")
    state = load_file(folder / weights.WEIGHTS_FILE)
    state["head.linear.bias"][:2] = value
    save_file(state, folder / weights.WEIGHTS_FILE)
    with pytest.raises(WeightsError, match=r"2 of \d+ values of head\.linear\.bias are NaN or infinite"):
        weights.load(folder)
    (folder / "train.json").write_text("{}")
    child = replace(of(), init=InitSpec(model=FromRun("parent", "aaa")))
    with pytest.raises(UserError, match=r"init\.model: run parent \(aaa\): .* NaN or infinite"):
        initialization.build(child, tmp_path)


def test_undefined_values_are_left_out_and_infinite_ones_are_not() -> None:
    scores = Scores()
    scores.add(["a", "b"], {"psnr": torch.tensor([[20.0, torch.nan], [30.0, 40.0]])})
    assert scores.to_dict()["means"]["psnr"] == pytest.approx((20 + 35) / 2)
