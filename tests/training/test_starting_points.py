"""Runs that start from other runs (Splatt3R and NoPoSplat from the sweep's own MASt3R) or from published models."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
import torch
from support.base_models import BASES
from support.golden_cases import save
from support.in_process import Train, trained_once

import models
from bench import config
from bench.common.errors import ConfigError
from bench.common.json_files import write_json
from bench.config.schema import RunSpec
from bench.runs.folder import RunFolder
from bench.training import initialization
from models import published, weights

SPEC = """# Do Splatt3R and NoPoSplat gain from MASt3R?
runs:
  - {name: MASt3R, base: mast3r}
  - name: Splatt3R
    base: splatt3r
    init: {encoder: {run: MASt3R}, aggregator: {run: MASt3R}, head: {run: MASt3R}}
    train.parts: {encoder: {freeze: true}, aggregator: {freeze: true}}
    model.output.detach_points: true
  - name: NoPoSplat
    base: noposplat
    init.model: {run: MASt3R}
    train.parts: {encoder: {rate: 0.1}, aggregator: {rate: 0.1}}
set:
  model: {encoder: {width: 48, blocks: 1, heads: 2}, aggregator: {width: 48, heads: 2}}
  model.head: {layer_dims: [8, 8, 8, 8], features: 8, last_dim: 8}
  train: {steps: 2, batch: 2, warmup_steps: 1, geometry_first: 0}
  data: {name: procedural, training_scenes: 4, validation_scenes: 1, evaluation_scenes: 2}
  evaluation.scenes: 2
  losses.lpips: null
"""


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "graph.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture(scope="module")
def train(spec: Path) -> Train:
    return trained_once(spec, spec.parent / "results")


def state(folder: RunFolder) -> dict[str, torch.Tensor]:
    return models.load(folder.path).state_dict()


def test_what_splatt3r_takes_stays_bitwise_what_mast3r_trained(train: Train) -> None:
    """E and A are frozen, and no gradient reaches the points; the head of the Gaussians is trained."""
    parent, child = state(train("MASt3R")), state(train("Splatt3R"))
    taken = [key for key in child if "parts.rest." not in key]
    assert all(torch.equal(child[key], parent[key]) for key in taken)
    assert {key.partition(".")[0] for key in taken} == {"encoder", "aggregator", "head"}
    assert any("parts.descriptors." in key for key in parent) and not any("parts.descriptors." in key for key in child)
    spec = config.from_dict(train("Splatt3R").spec())
    drawn = spec.model.build(spec.seed).state_dict()
    new = [key for key in child if key not in taken and "fuse.3.skip" not in key]
    assert all(not torch.equal(child[key], drawn[key]) for key in new if key.endswith("weight"))


def test_noposplat_starts_from_mast3rs_points_without_their_confidence(train: Train) -> None:
    parent = state(train("MASt3R"))
    folder = train("NoPoSplat")
    spec = config.from_dict(folder.spec())
    start, drawn = initialization.build(spec, folder.path.parent).state_dict(), spec.model.build(spec.seed).state_dict()
    for key, value in start.items():
        if key.endswith(("points.out.weight", "points.out.bias")):
            assert len(parent[key]) == 4 and torch.equal(value, parent[key][:3]), key
        elif "parts.rest." in key or key.startswith("encoder.intrinsics."):
            assert torch.equal(value, drawn[key]), key
        else:
            assert torch.equal(value, parent[key]), key
    moved = state(folder)
    assert any(not torch.equal(moved[key], start[key]) for key in start if key.startswith("encoder."))


def test_the_graph_is_part_of_the_identity(spec: Path) -> None:
    mast3r, splatt3r, noposplat = config.load(spec).runs
    assert splatt3r.parents == (mast3r.id,) * 3 and noposplat.parents == (mast3r.id,)
    other = config.load(spec, ["train.learning_rate=7e-4"]).runs
    assert {run.id for run in other}.isdisjoint({mast3r.id, splatt3r.id, noposplat.id})


@pytest.mark.parametrize(
    ("child", "texts"),
    [
        ("splatt3r, init.encoder: {run: MASt3R}, model.encoder.width: 96",
         ["MASt3R has another encoder than this run: width 48, not 96"]),
        ("splatt3r, init.aggregator: {run: MASt3R}, model.encoder.width: 96",
         ["MASt3R has another aggregator: decoder_embed.weight has shape (48, 48), this model (48, 96)"]),
        ("splatt3r, init.head: {run: MASt3R}, model.head.features: 16",
         ["MASt3R has another head than this run: features 8, not 16"]),
        ("mast3r, init.aggregator: {run: MASt3R}, model.aggregator.heads: 4",
         ["MASt3R has another aggregator than this run: heads 2, not 4"]),
        ("mast3r, init.head: {run: Splatt3R}",
         ["Splatt3R has another head: downstream_head1.head_local_features.fc1.weight is missing"]),
        ("splatt3r, init.model: {run: MASt3R}, train: {steps: 0, warmup_steps: 0}",
         ["MASt3R has another head: reference.parts.rest.reassemble.0.0.weight is missing",
          "MASt3R has another output than this run: pointmap, not splatt3r"]),
    ],
)  # fmt: skip
def test_what_cannot_fit_is_refused_at_load(tmp_path: Path, child: str, texts: list[str]) -> None:
    """A sentence each, with the line that names the run; a dry run and a start load the spec first."""
    path = tmp_path / "graph.yaml"
    path.write_text(SPEC.replace("set:", f"  - {{name: child, base: {child}}}\nset:"))
    with pytest.raises(ConfigError) as refused:
        config.load(path)
    where = f"{path}:{1 + SPEC[: SPEC.index('set:')].count(chr(10))}: "
    for line, text in zip(str(refused.value).splitlines(), texts, strict=True):
        assert line.startswith(where + text)


def test_dust3rs_decoders_start_from_crocos_one(tmp_path: Path) -> None:
    """As DUSt3R copies it to both views; the head is new."""
    path = tmp_path / "dust3r.yaml"
    path.write_text(
        """# Does pretraining on pixels help?
runs:
  - {name: CroCo, base: croco}
  - {name: DUSt3R, base: dust3r, init: {encoder: {run: CroCo}, aggregator: {run: CroCo}}}
"""
    )
    parent, child = config.load(path).runs
    folder = tmp_path / parent.id
    model = parent.spec.model.build(5)
    folder.mkdir()
    weights.save_weights(model, folder / weights.WEIGHTS_FILE)
    write_json(folder / "train.json", {})
    trained, started = model.aggregator.state_dict(), initialization.build(child.spec, tmp_path).aggregator.state_dict()
    for key, value in started.items():
        assert torch.equal(value, trained[key.replace("source_blocks.", "blocks.")]), key


WIDTHS = ["model.encoder={name: croco, patch: 16, width: 64, blocks: 1, heads: 1}", "model.aggregator.width=64",
          "model.aggregator.heads=1", "views.frame=freesplatter"]  # fmt: skip
TAPS = "model.head.taps=[0, 1, 1, 2]"
DPT = ["model.head.layer_dims=[8, 8, 8, 8]", "model.head.features=8", "model.head.last_dim=8", TAPS]
PUBLISHED = {  # a whole model's layout → its base, and what its weights fix
    "croco": ("croco", []),
    "dust3r_linear": ("dust3r", ["model.head={name: linear, order: channel_pixel, view_weights: reference_source}"]),
    "dust3r_dpt": ("dust3r", DPT),
    "mast3r": ("mast3r", DPT),
    "splatt3r": ("splatt3r", [*DPT, "model.output.scale_bias=0", "model.output.opacity_bias=0",
                              "model.output.descriptors=24"]),
    "noposplat": ("noposplat", [*DPT, "model.output.scale_factor=0.001", "model.encoder.intrinsics_token=true"]),
}  # fmt: skip


def given(base: str, *overrides: str) -> RunSpec:
    return config.load(BASES / f"{base}.yaml", overrides).runs[0].spec


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_is_a_whole_models_start(name: str, tmp_path: Path) -> None:
    """Its file's tensors to the last bit; what shapes do not show must be as it was trained."""
    base, changes = PUBLISHED[name]
    settings, layout = [*WIDTHS, *changes], getattr(published, name)()
    trained = given(base, *settings).model.build(7)
    file = save(tmp_path / "file.pth", layout.to_public(trained.state_dict()), wrapped=not name.endswith("splat"))
    init = [f"init.model.weights={file}", f"init.model.sha256={sha256(file.read_bytes()).hexdigest()}"]
    assert initialization.find_problems(given(base, *settings, *init)) == []
    started = initialization.build(given(base, *settings, *init), None).state_dict()
    assert started.keys() == trained.state_dict().keys()
    assert all(torch.equal(value, started[key]) for key, value in trained.state_dict().items())
    wrong = ["model.encoder.rope_base=10", *(["views.frame=lara"] if name != "croco" else [])]
    (problem,) = initialization.find_problems(given(base, *settings, *init, *wrong))
    assert f"is {layout.name}'s: model.encoder.rope_base is 10.0, {layout.name}'s is 100.0" in problem
    assert ("views.frame is lara" in problem) == (name != "croco") and "\n" not in problem
    fewer = ["model.aggregator.blocks=1", *(["model.head.taps=[0, 0, 0, 1]"] if TAPS in changes else [])]
    (problem,) = initialization.find_problems(given(base, *settings, *init, *fewer))
    assert "dec_blocks.1." in problem and "belongs to no parameter of this model" in problem


def test_a_triplanes_own_checkpoint_is_a_whole_model(tmp_path: Path) -> None:
    """Its output has weights, too."""
    spec = given("lrm")
    trained = spec.model.build(7)
    weights.save_spec(trained, tmp_path / weights.SPEC_FILE)
    weights.save_weights(trained, tmp_path / weights.WEIGHTS_FILE)
    digest = sha256((tmp_path / weights.WEIGHTS_FILE).read_bytes()).hexdigest()
    started = initialization.build(given("lrm", f"init.model.weights={tmp_path}", f"init.model.sha256={digest}"), None)
    assert all(torch.equal(value, started.state_dict()[key]) for key, value in trained.state_dict().items())
