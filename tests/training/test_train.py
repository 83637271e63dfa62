"""Training on analytic balls: the recipe, its independence of micro-batches and ranks, resuming to the bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.balls import Balls
from support.paths import ROOT, TESTS
from support.training import CPU, SIZE, TRAIN, batch_of, run, spec, stop_after
from torch import Tensor

from bench import protocols
from bench.common.errors import UserError
from bench.config.schema import (
    EvaluationSpec,
    FromRun,
    InitSpec,
    RunSpec,
    TrainSpec,
    ViewsSpec,
    WeightsFile,
)
from bench.data.batch import Batch
from bench.data.sampler import Sampler
from bench.data.scene import SceneData, Split
from bench.data.view_selection import rig
from bench.losses import Prediction, Term, lpips, mse, points
from bench.profiling.benchmarks import step as step_benchmark
from bench.rendering import render
from bench.runs.folder import RunFolder
from bench.runs.writer import PlainWriter
from bench.runtime.distributed import DistributedContext
from bench.training import checkpoint, initialization, optimizer
from bench.training.best_checkpoint import validation_psnr
from bench.training.diagnostics import NonFinite
from bench.training.train import Stopped, train
from bench.training.trainer import Trainer
from models import weights
from models.aggregators import self_attention
from models.encoders import conv, croco
from models.heads import dpt


def test_learning_rate() -> None:
    paper = TrainSpec()
    golden = {0: 2.5e-8, 999: 2.5e-5, 1999: 5e-5, 2000: 5e-5, 101_000: 2.75e-5, 199_999: 5e-6}
    for step, rate in golden.items():
        assert optimizer.learning_rate(step, paper) == pytest.approx(rate, rel=1e-4)
    assert optimizer.learning_rate(19, TRAIN) == TRAIN.final_learning_rate


def test_weights_of_layers_alone_decay() -> None:
    aggregator = self_attention.Spec(blocks=1, heads=2, table_size=SIZE)
    encoder = croco.Spec(patch=8, width=32, blocks=1, heads=2)
    model = replace(spec().model, encoder=encoder, aggregator=aggregator).build(0)
    decaying, others = (group["params"] for group in optimizer.build(model, TRAIN).param_groups)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert "head.linear.weight" in {names[id(p)] for p in decaying}
    assert all(parameter.ndim >= 2 for parameter in decaying)
    assert {names[id(p)] for p in others} == {
        name for name in names.values() if "norm" in name or name.endswith((".bias", ".table", ".view_embedding"))
    }


def plain_loop(of: RunSpec, steps: int) -> torch.nn.Module:
    """The recipe as anyone would write it down."""
    model = of.model.build(of.seed)
    layers = [m.weight for m in model.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
    others = [p for p in model.parameters() if all(p is not weight for weight in layers)]
    adam = torch.optim.AdamW([{"params": layers, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
                             betas=(0.9, 0.95), foreach=False)  # fmt: skip
    for step in range(steps):
        for group in adam.param_groups:
            group["lr"] = optimizer.learning_rate(step, of.train)
        batch = batch_of(of, step)
        g = model(batch.inputs)
        mask = batch.input_mask
        per_scene = [
            (g.means[i][mask[i]] - batch.input_points[i][mask[i]]).square().sum(-1).mean()
            for i in range(of.train.batch)
        ]
        loss = 10 * torch.stack(per_scene).mean()
        if step >= of.train.steps * of.train.geometry_first:
            loss = loss + (render(g, batch.target_cameras, batch.background).rgb - batch.targets).square().mean()
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), of.train.gradient_clip)
        adam.step()
    return model


def test_equals_a_plain_loop(tmp_path: Path) -> None:
    of = spec(steps=8, geometry_first=0.5)
    run(tmp_path, of)
    trained, plain = weights.load(tmp_path).state_dict(), plain_loop(of, 8).state_dict()
    moved = {key: (value - of.model.build(0).state_dict()[key]).abs().max() for key, value in plain.items()}
    assert min(moved.values()) > 1e-4
    for key, value in plain.items():
        torch.testing.assert_close(trained[key], value, rtol=0, atol=2e-5, msg=key)


def test_a_term_computed_in_every_second_step_has_twice_its_weight() -> None:
    losses = {**spec().losses, "lpips": lpips.Spec(weight=0.1, net="alex", every=2)}
    model = replace(spec().model, image_size=32)  # AlexNet's least
    sparse = replace(spec(geometry_first=0.0), losses=losses, model=model)
    dense = replace(sparse, losses={**losses, "lpips": lpips.Spec(weight=0.2, net="alex")})
    without = replace(sparse, losses=spec().losses)
    assert not [*lpips.Spec(every=2).problems(model)] and [*lpips.Spec(every=0).problems(model)]
    batch = Sampler(Balls(32), sparse.views, 0).training(0, range(sparse.train.batch))

    def accumulated(of: RunSpec, step: int) -> dict[str, Tensor]:
        trainer = Trainer(of, CPU)
        trainer.accumulate(step, batch)
        return {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}

    for step, same in ((0, dense), (1, without)):
        ours, theirs = accumulated(sparse, step), accumulated(same, step)
        for name, gradient in ours.items():
            torch.testing.assert_close(gradient, theirs[name])


def gradients(of: RunSpec, step: int, indices: range | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    trainer = Trainer(of, CPU)
    values = trainer.accumulate(step, batch_of(of, step, indices))
    return values, {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
def test_micro_batches_are_one_batch(micro_batch: int) -> None:
    whole, parts = gradients(spec(), 10), gradients(spec(micro_batch=micro_batch), 10)
    assert whole[0].keys() == parts[0].keys() and {"loss/mse", "health/transparent"} <= whole[0].keys()
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


def test_ranks_add_up() -> None:
    whole = gradients(spec(), 10)
    ranks = [gradients(spec(), 10, DistributedContext(rank, 2).samples(4)) for rank in range(2)]
    for kind in (0, 1):
        summed = {name: ranks[0][kind][name] + ranks[1][kind][name] for name in whole[kind]}
        torch.testing.assert_close(summed, whole[kind], rtol=1e-4, atol=1e-6)


def test_only_the_first_rank_writes(tmp_path: Path) -> None:
    run(tmp_path, spec(steps=4), ranks=DistributedContext(1, 2))
    assert list(tmp_path.iterdir()) == []


def with_dpt() -> RunSpec:
    """As Ours2: a ViT, and a DPT head whose first unit never gets a gradient."""
    encoder = croco.Spec(patch=8, width=32, blocks=1, heads=2)
    head = dpt.Spec(taps=(0, 0, 1, 1), layer_dims=(8, 8, 8, 8), features=8, last_dim=8)
    return replace(spec(), model=replace(spec().model, encoder=encoder, head=head))


@pytest.mark.parametrize("of", [spec(), with_dpt(), spec(ema=0.9)], ids=["linear", "dpt", "ema"])
def test_resumed_is_undisturbed_to_the_bit(tmp_path: Path, of: RunSpec) -> None:
    whole = run(tmp_path / "whole", of)
    for _ in range(2):
        with pytest.raises(Stopped):
            run(tmp_path / "parts", of, stop=stop_after(8))
    assert [path.name for path in RunFolder(tmp_path / "parts").checkpoints()] == ["step_00000016"]
    parts = run(tmp_path / "parts", of)
    assert digest(whole) == digest(parts)
    assert [losses(r) for r in whole.metrics()] == [losses(r) for r in parts.metrics()]
    assert [record["step"] for record in parts.metrics()] == list(range(1, 21))


def digest(folder: RunFolder) -> str:
    return sha256((folder.path / weights.WEIGHTS_FILE).read_bytes()).hexdigest()


def losses(record: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in record.items() if not key.endswith("_ms")}


def test_moments_matter_to_resuming(tmp_path: Path) -> None:
    """So that the test above can fail."""
    whole = run(tmp_path / "whole", spec())
    with pytest.raises(Stopped):
        run(tmp_path / "parts", spec(), stop=stop_after(10))
    (newest,) = RunFolder(tmp_path / "parts").checkpoints()
    save_file({}, newest / checkpoint.OPTIMIZER)
    assert digest(run(tmp_path / "parts", spec())) != digest(whole)


KILLED = """
import os, pathlib, signal, sys
sys.path.insert(0, sys.argv[2])
import torch
torch.set_num_threads(1)
from support import training
replace = pathlib.Path.replace
def kill(path, target):
    if pathlib.Path(target).name == "step_00000020":
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(path, target)
pathlib.Path.replace = kill
training.run(pathlib.Path(sys.argv[1]), training.spec(steps=30))
"""


def test_killed_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ended = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "killed", TESTS], check=False)
        assert ended.returncode == -signal.SIGKILL
        folder = RunFolder(tmp_path / "killed")
        assert [path.name for path in folder.checkpoints()] == ["step_00000010"]
        assert any(path.name.startswith(".tmp-") for path in (folder.path / "checkpoints").iterdir())
        assert digest(run(folder.path, spec(steps=30))) == digest(run(tmp_path / "whole", spec(steps=30)))
    finally:
        torch.set_num_threads(threads)


def test_damaged_or_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(tmp_path, spec(), stop=stop_after(2))
    other = replace(spec(), model=replace(spec().model, encoder=conv.Spec(patch=8, width=32)))
    with pytest.raises(UserError, match=r"encoder\.patchify.*delete it"):
        run(tmp_path, other)
    (RunFolder(tmp_path).checkpoints()[0] / checkpoint.MODEL).write_bytes(b"torn")
    with pytest.raises(UserError, match="cannot be read"):
        run(tmp_path, spec())


@dataclass(frozen=True)
class WatchRenderings(points.Spec):
    """L_3D, which records whether anything was rendered."""

    rendered: ClassVar[list[bool]] = []

    def build(self, device: torch.device) -> Term:
        term = super().build(device)

        def watched(prediction: Prediction, batch: Batch) -> Tensor:
            self.rendered.append(prediction.rendering is not None)
            return term(prediction, batch)

        return watched


@dataclass(frozen=True)
class FailsAtFifth(points.Spec):
    """L_3D, which runs out of memory in the fifth step."""

    def build(self, device: torch.device) -> Term:
        term, calls = super().build(device), iter(range(100))

        def failing(prediction: Prediction, batch: Batch) -> Tensor:
            if next(calls) == 4:
                raise torch.OutOfMemoryError("no memory")
            return term(prediction, batch)

        return failing


def test_steps_before_a_failure_are_recorded(tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        run(tmp_path, replace(spec(), losses={"points": FailsAtFifth()}))
    assert [record["step"] for record in RunFolder(tmp_path).metrics()] == [1, 2, 3]  # the fourth was not read yet


def test_geometry_comes_first_without_rendering(tmp_path: Path) -> None:
    steps = run(tmp_path, replace(spec(), losses={"mse": mse.Spec(), "points": WatchRenderings()})).metrics()
    assert WatchRenderings.rendered == [False] * 6 + [True] * 14
    assert ["loss/mse" in record for record in steps] == [False] * 6 + [True] * 14
    assert all("loss/points" in record for record in steps)
    assert steps[0]["loss"] == pytest.approx(10 * steps[0]["loss/points"], rel=1e-5)
    last = steps[-1]
    assert last["loss"] == pytest.approx(last["loss/mse"] + 10 * last["loss/points"], rel=1e-5)


def test_summary(tmp_path: Path) -> None:
    folder = run(tmp_path, spec())
    summary = folder.training()
    assert summary is not None and summary["steps"] == 20 and summary["threads"] == torch.get_num_threads()
    scenes = folder.scenes()
    assert scenes is not None and scenes["training"] == ["training/0", "training/1", "training/2", "training/3"]
    assert scenes["evaluation"] and not set(scenes["training"]) & set(scenes["evaluation"])
    assert summary["final"]["loss"] == folder.metrics()[-1]["loss"]
    assert 0 <= summary["data_wait_share"] < 1 and summary["training_s"] > 0
    assert not (tmp_path / "checkpoints").exists()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    run(tmp_path, spec())
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


def test_loss_falls(tmp_path: Path) -> None:
    steps = run(tmp_path, spec(steps=60)).metrics()
    assert steps[-1]["loss/points"] < 0.3 * steps[0]["loss/points"]
    assert {"gradient_norm/encoder", "gradient_norm/aggregator", "gradient_norm/head"} <= steps[0].keys()
    assert all(record["step_time_ms"] >= record["data_wait_ms"] >= 0 for record in steps)


class Leaky(Balls):
    def scenes(self, split: str) -> list[str]:
        return [f"all/{i}" for i in range(self.count)]


def test_scenes_in_both_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="4 scenes are in training and in evaluation, all/0"):
        train(spec(), PlainWriter(tmp_path), device=CPU, source=Leaky(SIZE))
    overfit = replace(spec(steps=4), views=ViewsSpec(rig.Spec(), overfit=1))
    train(overfit, PlainWriter(tmp_path), device=CPU, source=Leaky(SIZE))


def test_a_gradient_that_is_not_finite_is_never_applied() -> None:
    trainer = Trainer(spec(), CPU)
    trainer.step(0, batch_of(spec(), 0))
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    batch = batch_of(spec(), 1)
    batch.input_points[0, 0, SIZE // 2, SIZE // 2] = torch.nan
    values = trainer.step(1, batch)
    assert not values["loss"].isfinite()
    assert all(torch.equal(before[key], value) for key, value in trainer.model.state_dict().items())
    trainer.step(1, batch_of(spec(), 1))
    assert not torch.equal(before["head.linear.weight"], trainer.model.state_dict()["head.linear.weight"])


@dataclass
class Poisoned(Balls):
    """Many scenes, of which one has cameras that are not numbers."""

    poisoned: str = ""

    def scenes(self, split: Split) -> Sequence[str]:
        return [f"{split}/{i:04}" for i in range(1000)]

    def read(self, scene: str, views: Sequence[int]) -> SceneData:
        data = super().read(scene, views)
        return replace(data, camera_to_world=data.camera_to_world * np.nan) if scene == self.poisoned else data


def test_not_finite_names_step_and_cause(tmp_path: Path) -> None:
    of, source = spec(), Poisoned(SIZE)
    source.poisoned = Sampler(source, of.views, of.seed).training(12, [1]).scenes[0]
    with pytest.raises(NonFinite, match=r"step 13: loss/points is not finite; first non-finite: the data \(scenes tr"):
        train(of, PlainWriter(tmp_path), device=CPU, source=source)
    folder = RunFolder(tmp_path)
    assert [record["step"] for record in folder.metrics()] == list(range(1, 13))
    assert [path.name for path in folder.checkpoints()] == ["step_00000010"]


def test_parts_of_another_run(tmp_path: Path) -> None:
    first = run(tmp_path / "aaa", spec(steps=4))
    child = replace(spec(), seed=1, init=InitSpec(aggregator=FromRun("first", "aaa")))
    model, scratch = initialization.build(child, tmp_path), child.model.build(1)
    trained = weights.load(first.path).state_dict()
    for key, value in model.state_dict().items():
        source = trained if key.startswith("aggregator.") else scratch.state_dict()
        assert torch.equal(value, source[key]), key
    with pytest.raises(UserError, match=r"init\.head: parent run bbb has not finished"):
        initialization.build(replace(child, init=InitSpec(head=FromRun("second", "bbb"))), tmp_path)
    other = replace(child, model=replace(child.model, encoder=conv.Spec(patch=8, width=32)))
    with pytest.raises(UserError, match=r"init\.aggregator: run first \(aaa\): table has shape"):
        initialization.build(other, tmp_path)


def test_published_weights_are_verified(tmp_path: Path) -> None:
    encoder = croco.Spec(patch=8, width=32, blocks=1, heads=2)
    of = replace(spec(), model=replace(spec().model, encoder=encoder))
    part = of.model.build(7).encoder
    public = {"patch_embed.proj.weight": part.state_dict()["patchify.weight"]}
    path = tmp_path / "mast3r.pth"
    torch.save({"model": public}, path)

    def build(declared: str | None, at: Path = path) -> Any:
        return initialization.build(replace(of, init=InitSpec(encoder=WeightsFile(str(at), declared))), None)

    with pytest.raises(
        UserError, match=rf"not declared.*init\.encoder\.sha256={sha256(path.read_bytes()).hexdigest()}"
    ):
        build(None)
    with pytest.raises(UserError, match="the spec says 0000"):
        build("0000")
    with pytest.raises(UserError, match=r"no file .*absent"):
        build("0000", tmp_path / "absent.pth")
    with pytest.raises(UserError, match=r"init\.encoder: .*mast3r\.pth: patch_embed\.proj\.bias is missing"):
        build(sha256(path.read_bytes()).hexdigest())


def test_precision_of_fp32_products_is_set() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        Trainer(spec(matmul_precision="medium"), CPU)
        assert torch.get_float32_matmul_precision() == "medium"
        Trainer(spec(), CPU)
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.long
def test_compiled_is_eager(tmp_path: Path) -> None:
    """In a process of its own: under the tests' shape hook there is nothing to compile."""
    program = "import sys; from pathlib import Path; from support.training import run, spec; "
    program += "run(Path(sys.argv[1]) / 'compiled', spec(steps=8, compile=True))"
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    compiled = RunFolder(tmp_path / "compiled").metrics()
    eager = run(tmp_path / "eager", spec(steps=8)).metrics()
    assert [r["loss"] for r in compiled] == pytest.approx([r["loss"] for r in eager], rel=1e-3)


def test_checkpoints_hold_no_pickle(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(tmp_path, spec(), stop=stop_after(2))
    (folder,) = RunFolder(tmp_path).checkpoints()
    assert sorted(path.name for path in folder.iterdir()) == [
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
    assert json.loads((folder / "state.json").read_text())["step"] == 2


def test_step_benchmark_measures() -> None:
    with step_benchmark.busy_neighbors(1):
        measured = step_benchmark.overhead(spec(), Balls(SIZE), rounds=2, steps=8)
    assert len(measured.harness) == len(measured.plain) == 2 and min(map(min, measured.plain)) > 0
    assert f"harness {measured.difference_ms(0):+.2f} ms, × {measured.ratio():.3f}" in str(measured)


def test_busy_neighbors_end_with_a_benchmark_that_is_killed() -> None:
    code = (
        "import os, signal\nfrom bench.profiling.benchmarks.step import busy_neighbors\n"
        "with busy_neighbors(1):\n    children = open(f'/proc/{os.getpid()}/task/{os.getpid()}/children').read()\n"
        "    print(children, flush=True)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    (child,) = map(int, done.stdout.split())
    deadline = time.monotonic() + 30
    while (stat := Path(f"/proc/{child}/stat")).exists() and " Z " not in stat.read_text():
        assert time.monotonic() < deadline, "it is still busy"
        time.sleep(0.05)


@dataclass(frozen=True)
class WatchBatches(points.Spec):
    """L_3D, which notes at each step how many batches of earlier steps are still in memory."""

    seen: ClassVar[list[weakref.ref[Batch]]] = []
    alive: ClassVar[list[int]] = []

    def build(self, device: torch.device) -> Term:
        term = super().build(device)

        def watched(prediction: Prediction, batch: Batch) -> Tensor:
            self.alive.append(sum(ref() is not None for ref in self.seen))
            self.seen.append(weakref.ref(batch))
            return term(prediction, batch)

        return watched


def test_a_batch_is_freed_before_the_next_step(tmp_path: Path) -> None:
    run(tmp_path, replace(spec(steps=6), losses={"points": WatchBatches()}))
    assert WatchBatches.alive == [0] * 6


def test_the_best_weights_are_kept(tmp_path: Path) -> None:
    """Of four validations the best one's weights remain, also after a stop; ids without the field stay as they were."""
    of = replace(spec(keep="best", validations=4, learning_rate=0.05), evaluation=EvaluationSpec(scenes=2))
    whole = run(tmp_path / "whole", of)
    validations = {r["step"]: r["validation_psnr"] for r in whole.metrics() if "validation_psnr" in r}
    kept = (whole.training() or {})["kept"]
    assert list(validations) == [5, 10, 15, 20] and len(set(validations.values())) == 4
    assert kept["validation_psnr"] == max(validations.values()) == validations[kept["step"]] and kept["step"] != 20
    assert not (whole.path / "best").exists()

    model = weights.load(whole.path)
    scenes = Balls(SIZE).scenes("validation")[:2]
    again = validation_psnr(model, Sampler(Balls(SIZE), of.views, 0), scenes, protocols.get("per_image_white"))
    assert again == pytest.approx(kept["validation_psnr"], abs=1e-9)

    with pytest.raises(Stopped):
        run(tmp_path / "stopped", of, stop=stop_after(12))
    assert (
        sha256((run(tmp_path / "stopped", of).path / weights.WEIGHTS_FILE).read_bytes()).digest()
        == sha256((whole.path / weights.WEIGHTS_FILE).read_bytes()).digest()
    )
