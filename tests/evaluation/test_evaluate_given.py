"""Given weights evaluated as they are: FreeSplatter's, a run's own, MASt3R's encoder with the rest of a run."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from support.balls import Balls
from support.golden_cases import save

import bench.run
import models
from bench.common import labels
from bench.common.errors import ConfigError, UserError
from bench.common.json_files import read_lines, write_json
from bench.config import (
    RunSpec,
    from_dict,
    load,
    to_dict,
)
from bench.config.schema import FromRun, InitSpec, WeightsFile
from bench.evaluation import evaluate
from bench.execution import worker
from bench.runs.folder import RunFolder
from bench.runs.writer import PlainWriter
from bench.training import initialization
from bench.training.train import train
from models import published, weights
from models.encoders import croco

SPEC = """# Evaluates what is given.
base: freesplatter
set:
  train.steps: 0
  init.model: {weights: FILE}
  views: {frame: freesplatter, choice: rig}
  model:
    image_size: 32
    encoder: {name: conv, patch: 8, width: 64}
    aggregator: {name: self_attention, blocks: 1, heads: 1, view_embedding: reference_source, table_size: 64}
    output: {name: gaussians, sh_degree: 1, scale_max: 0.02, color_residual: false}
  data: {name: procedural, training_scenes: 16, validation_scenes: 0, evaluation_scenes: 16}
  evaluation.scenes: 2
  losses.lpips: null
"""
CPU = torch.device("cpu")


def digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def with_visible_gaussians(model: models.EAD) -> models.EAD:
    """Random weights whose Gaussians stand where the object is, so that something is rendered."""
    with torch.no_grad():
        bias = model.head.linear.bias.view(-1, 23)
        bias[:, 2], bias[:, 15] = 2.0, 3.0
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spec, a file in FreeSplatter's layout, a checkpoint in MASt3R's, and results to be."""
    root = tmp_path_factory.mktemp("given")
    (root / "spec.yaml").write_text(SPEC.replace("FILE", str(root / "freesplatter.safetensors")))
    model = with_visible_gaussians(load(root / "spec.yaml").runs[0].spec.model.build(7))
    weights.export(model, root / "freesplatter.safetensors")
    encoder = croco.Spec(width=64, blocks=1, heads=1).build()
    save(root / "mast3r.pth", published.croco_encoder().to_public(encoder.state_dict()))
    return root


def spec_of(folder: Path, *overrides: str) -> RunSpec:
    return load(folder / "spec.yaml", overrides).runs[0].spec


def declared(folder: Path) -> str:
    return f"init.model.sha256={digest(folder / 'freesplatter.safetensors')}"


def bench_run(folder: Path, *options: str) -> int:
    return bench.run.main([str(folder / "spec.yaml"), "--results", str(folder / "results"), "--threads", "1", *options])


def test_a_missing_file_is_red_in_the_dry_run_and_stops_the_start(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = f"init.model.weights={folder}/absent.pth"
    assert bench_run(folder, "--dry-run", absent) == 0
    assert f"init.model: no file {folder}/absent.pth" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"init\.model: no file .*absent\.pth"):
        bench_run(folder, absent)
    with pytest.raises(UserError, match=r"init\.model: no file .*runs/0123/weights\.safetensors"):
        bench_run(folder, f"init.model.weights={folder}/runs/0123")
    assert not (folder / "results" / "runs").exists()


def test_the_content_is_declared_and_counts_in_the_id(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"run again with {declared(folder)}"):
        bench_run(folder)
    with pytest.raises(UserError, match="is not the declared file"):
        bench_run(folder, f"init.model.sha256={'f' * 64}")
    one, other = (load(folder / "spec.yaml", [f"init.model.sha256={c * 64}"]).runs[0].id for c in "ab")
    moved = load(folder / "spec.yaml", [f"init.model.sha256={'a' * 64}", "init.model.weights=elsewhere.safetensors"])
    assert one != other and moved.runs[0].id == one


MAST3R = "model.encoder={name: croco, patch: 16, width: 64, blocks: 1, heads: 1}"
DPT = "model.head={name: dpt, taps: [0, 1, 1, 1], layer_dims: [4, 4, 4, 4], features: 4, last_dim: 4}"
TRAINED = ("init.model=scratch", "train={steps: 1, batch: 2, warmup_steps: 0, geometry_first: 0}")


def test_both_ways_in_one_sweep(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Evaluated by the command; the second time nothing is done."""
    other_run, theirs = folder / "rest", folder / "freesplatter.safetensors"
    train(spec_of(folder, MAST3R, DPT, *TRAINED), PlainWriter(other_run), device=CPU, source=Balls(32))
    part = f"{{weights: {other_run}, sha256: {digest(other_run / 'weights.safetensors')}}}"
    sweep = folder / "both.yaml"
    sweep.write_text(
        (folder / "spec.yaml").read_text()
        + f"""
runs:
  - {{name: FreeSplatter, init.model: {{weights: {theirs}, sha256: {digest(theirs)}}}}}
  - name: MASt3R
    {MAST3R.replace("=", ": ")}
    {DPT.replace("=", ": ")}
    views.frame: lara
    init: {{model: scratch, encoder: {{weights: {folder}/mast3r.pth, sha256: {digest(folder / "mast3r.pth")}}},
           aggregator: {part}, head: {part}}}
"""
    )
    command = [str(sweep), "--results", str(folder / "results"), "--threads", "1"]
    assert bench.run.main(command) == 0
    runs = {run.label: run for run in load(sweep).runs}
    assert runs["FreeSplatter"].id == load(folder / "spec.yaml", [declared(folder)]).runs[0].id
    folders = {label: RunFolder(folder / "results" / "runs" / run.id) for label, run in runs.items()}
    assert all((f.training() or {})["steps"] == 0 and not f.profiles() for f in folders.values())
    model, public = models.load(folders["MASt3R"].path), weights.read(folder / "mast3r.pth")
    encoder = published.croco_encoder().to_public(model.encoder.state_dict())
    assert encoder.keys() == public.keys() and all(torch.equal(encoder[key], public[key]) for key in public)
    for name, loaded in models.load(other_run).parts().items():
        same = [torch.equal(value, model.parts()[name].state_dict()[key]) for key, value in loaded.state_dict().items()]
        assert all(same) is (name != "encoder"), name
    table = (folder / "results" / "both_tiny" / "tables" / "table.md").read_text()
    sources = f"Nothing was trained: FreeSplatter (model from {theirs}, sha256 {digest(theirs)[:12]}…); MASt3R"
    assert labels.markdown(sources) in table
    assert "frames (freesplatter, lara) do not compare" in table and "Tiny results" not in table
    assert {line["steps"] for line in read_lines(folder / "results" / "both_tiny" / "runs.jsonl")} == {0}
    assert {path.name for path in (folder / "results" / "both_tiny" / "figures").iterdir()} >= {"qualitative.png"}
    assert bench.run.main(command) == 0 and "0 of 2 runs pending" in capsys.readouterr().out


def test_the_whole_model_of_another_run_of_the_sweep(folder: Path, tmp_path: Path) -> None:
    spec, source = spec_of(folder, declared(folder)), Balls(32)
    train(spec, PlainWriter(tmp_path / "aaa"), device=CPU, source=source)
    child = replace(spec, init=InitSpec(model=FromRun("first", "aaa")))
    built = initialization.build(child, tmp_path)
    torch.testing.assert_close(built.state_dict(), models.load(tmp_path / "aaa").state_dict(), rtol=0, atol=0)
    sweep = folder / "family.yaml"
    text = "base: freesplatter\nruns:\n  - {name: parent}\n  - {name: child, init.model: {run: parent}, train.steps: 0"
    sweep.write_text(text + "}\n")
    parent, child_run = load(sweep).runs
    assert child_run.parents == (parent.id,) and child_run.spec.init.model == FromRun("parent", parent.id)
    sweep.write_text(text + ", model.head: dpt, model.head.taps: [0, 2, 3, 4]}\n")
    with pytest.raises(ConfigError, match="parent has another head"):
        load(sweep)


def test_the_numbers_are_those_of_the_file(folder: Path, tmp_path: Path) -> None:
    """Without the command: the model with given weights is the file's to the last bit, and so is its evaluation."""
    spec, source = spec_of(folder, declared(folder)), Balls(32)
    train(spec, PlainWriter(tmp_path), device=CPU, source=source)
    model, original = models.load(tmp_path), with_visible_gaussians(spec.model.build(7))
    torch.testing.assert_close(model.state_dict(), original.state_dict(), rtol=0, atol=0)
    evaluate.evaluate(spec, PlainWriter(tmp_path), device=CPU, source=source)
    result = next(iter(RunFolder(tmp_path).evaluations().values()))
    batch = bench_batch(spec, source)
    rendering = evaluate.predict(original, batch)[1]
    assert rendering is not None
    rgb = rendering.rgb.clamp(0, 1)
    assert (rgb.mean() < 0.999) and result["frame"] == "freesplatter"
    psnr = -10 * (rgb - batch.targets).square().mean((2, 3, 4)).log10()
    assert result["means"]["psnr"] == pytest.approx(float(psnr.mean()), abs=1e-4)
    file = tmp_path / "weights.safetensors"
    own = spec_of(folder, f"init.model.weights={tmp_path}", f"init.model.sha256={digest(file)}")
    train(own, PlainWriter(tmp_path / "again"), device=CPU, source=source)
    assert digest(tmp_path / "again" / "weights.safetensors") == digest(file)


def bench_batch(spec: RunSpec, source: Balls) -> Any:
    from bench.data.sampler import Sampler

    sampler = Sampler(source, spec.views, spec.seed)
    return sampler.evaluation(sampler.evaluation_scenes(spec.evaluation.scenes))


def test_another_model_names_the_settings_that_it_needs(folder: Path, tmp_path: Path) -> None:
    """Copied to the command line they make the spec fit."""
    other = spec_of(folder, "model.encoder={name: croco, patch: 16, width: 64, blocks: 1, heads: 1}",
                  "model.head={name: dpt, taps: [0, 1, 1, 1]}", "views.frame=lara", "model.image_size=64",
                  "model.output.color_residual=true", "init.model=scratch", "train.steps=1",
                  "train.warmup_steps=0")  # fmt: skip
    writer = PlainWriter(tmp_path / "0123456789ab")
    writer.commit("model.json", lambda path: weights.save_spec(other.model.build(0), path))
    writer.commit("weights.safetensors", lambda path: weights.save_weights(other.model.build(0), path))
    write_json(writer.folder / "spec.json", {"spec": to_dict(other)})
    source = [
        f"init.model.weights={writer.folder}",
        f"init.model.sha256={digest(writer.folder / 'weights.safetensors')}",
    ]
    (problem,) = initialization.find_problems(spec_of(folder, *source))
    settings = shlex.split(problem.partition("set: ")[2])
    assert {"model.encoder=croco", "views.frame=lara", "model.head.taps=[0, 1, 1, 1]"} <= set(settings)
    fitting = spec_of(folder, *source, *settings)
    assert initialization.find_problems(fitting) == [] and fitting.model == replace(
        other.model, precision=fitting.model.precision
    )
    part = [text.replace("init.model", "init.encoder") for text in source]
    overrides = ["init.model=scratch", "train.steps=1", "train.warmup_steps=0", "train.geometry_first=0"]
    (problem,) = initialization.find_problems(spec_of(folder, *part, *overrides))
    assert problem.startswith("init.encoder: ") and "model.head" not in problem and "model.encoder=croco" in problem


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("views.frame=lara", "views.frame is lara, FreeSplatter's output lies in freesplatter"),
        ("model.aggregator.heads=2", "heads is 2, FreeSplatter's is 1"),
        ("model.aggregator.view_embedding=per_view", "view_embedding is per_view"),
        ("model.head=dpt", "model.head is dpt, FreeSplatter's is linear"),
        ("model.aggregator.blocks=2", "transformer.blocks.1.norm1.weight is missing"),
        ("model.output.sh_degree=0", "transformer.unpatchify.weight has shape (1472, 64), this model (896, 64)"),
    ],
)
def test_what_freesplatter_needs(folder: Path, override: str, text: str) -> None:
    more = ["model.head.taps=[0, 1, 1, 1]"] if override == "model.head=dpt" else []
    (problem,) = initialization.find_problems(spec_of(folder, declared(folder), override, *more))
    assert problem.startswith("init.model: ") and text in problem


def test_a_checkpoint_of_an_encoder_is_no_model(folder: Path) -> None:
    wrong = [f"init.model.weights={folder}/mast3r.pth", f"init.model.sha256={digest(folder / 'mast3r.pth')}"]
    (problem,) = initialization.find_problems(spec_of(folder, *wrong))
    assert "neither a model of this harness nor a published one" in problem and "say init.encoder" in problem


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["init.model=scratch"], "nothing is trained and nothing gives the encoder and the aggregator and the head"),
        (["init.head={weights: results/runs/x}"], "init.model gives the head as well"),
        (["views.overfit=1"], "nothing can be memorized"),
        (["init.model=scratch", "init.encoder={weights: x.pth}", "train.steps=9"], "no checkpoint of encoder conv"),
    ],
)
def test_specs_that_make_no_sense(folder: Path, overrides: list[str], text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(text)):
        spec_of(folder, *overrides)


def test_scenes_trained_on_are_not_evaluated(folder: Path, tmp_path: Path) -> None:
    spec = spec_of(folder, declared(folder))
    train(spec, PlainWriter(tmp_path / "aaa"), device=CPU, source=Balls(32))
    content = (RunFolder(tmp_path / "aaa").scenes() or {}) | {"training": ["evaluation/1", "training/0"]}
    write_json(tmp_path / "aaa" / "scenes.json", content)
    file = tmp_path / "aaa" / "weights.safetensors"
    again = spec_of(folder, f"init.model.weights={tmp_path}/aaa", f"init.model.sha256={digest(file)}")
    with pytest.raises(UserError, match="trained on 1 of these scenes, evaluation/1"):
        train(again, PlainWriter(tmp_path / "bbb"), device=CPU, source=Balls(32))


def test_nothing_is_timed_and_older_specs_read(folder: Path, tmp_path: Path) -> None:
    spec = spec_of(folder, declared(folder))
    write_json(tmp_path / "spec.json", {"spec": to_dict(spec)})
    assert worker.missing_stages(RunFolder(tmp_path)) == ["train", "evaluate"]
    values = to_dict(spec)
    del values["init"]["model"]
    assert from_dict(values).init.model == "scratch"


def test_the_committed_spec_is_the_published_model(tmp_path: Path) -> None:
    """At every scale; and its frame, size and scales are FreeSplatter's."""
    path = Path("ablations/evaluate.yaml")
    for scale in ("tiny", "small", "paper"):
        spec = load(path, scale=scale).runs[0].spec
        assert spec.model == load(path).runs[0].spec.model and spec.train.steps == 0
        assert spec.views.frame == "freesplatter" and spec.model.image_size == 512
    output = spec.model.output.to_dict()
    assert output["scale_min"] == 1e-4 and output["scale_max"] == 0.02 and output["sh_degree"] == 1
    from support.golden_cases import tensors

    file = save(tmp_path / "freesplatter-object.pth", tensors("freesplatter_object"), wrapped=False)
    overrides = [f"init.model.weights={file}", f"init.model.sha256={digest(file)}"]
    assert initialization.find_problems(load(path, overrides).runs[0].spec) == []
    assert initialization.find_problems(load(path, [*overrides, "model.output.color_residual=true"]).runs[0].spec) == []
    flat = save(tmp_path / "flat.pth", tensors("freesplatter_object_2dgs"), wrapped=False)
    overrides = [f"init.model.weights={flat}", f"init.model.sha256={digest(flat)}"]
    (problem,) = initialization.find_problems(load(path, overrides).runs[0].spec)
    assert "2D Gaussians" in problem


def test_a_checkpoint_elsewhere_reaches_the_runs_that_can_take_it() -> None:
    overrides = ["init.encoder.weights=/data/mast3r.pth", "init.encoder.sha256=" + "ab" * 32]
    runs = load("ablations/table3.yaml", overrides, "paper").runs
    theirs = WeightsFile("/data/mast3r.pth", "ab" * 32)
    assert [run.spec.init.encoder for run in runs] == ["scratch", theirs, theirs]
    with pytest.raises(ConfigError, match="no checkpoint of encoder conv is known, only of encoder croco, "):
        load("ablations/patch_size.yaml", overrides)


def test_a_pretrained_head_says_what_it_leaves_random(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = spec_of(folder, MAST3R, DPT, *TRAINED)
    public = published.dpt_head().to_public(spec.model.build(3).head.state_dict())
    public["downstream_head1.dpt.head.4.weight"] = torch.zeros(4, 4, 1, 1)
    public["downstream_head1.dpt.head.4.bias"] = torch.zeros(4)
    path = save(folder / "dust3r.pth", public)
    init = [f"init.head.weights={path}", f"init.head.sha256={digest(path)}"]
    built = initialization.build(spec_of(folder, MAST3R, DPT, *TRAINED, *init), None).head
    assert (
        "init.head: not of DUSt3R's and MASt3R's DPT head" in caplog.text
        and "head.4.weight, downstream_head1.dpt.head.4.bias" in caplog.text
    )
    scratch, theirs = spec.model.build(spec.seed).head.state_dict(), spec.model.build(3).head.state_dict()
    for key, value in built.state_dict().items():
        assert torch.equal(value, scratch[key] if key.startswith("out.") else theirs[key]), key
