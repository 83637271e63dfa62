"""`init: {encoder: {shipped: NAME}}`, the weights that ship, and `bench.ship`, which makes them."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.training import run as train
from support.training import spec

from bench import ship
from bench.common.errors import ConfigError, UserError
from bench.common.json_files import write_json
from bench.config import from_dict, load, run_id, to_dict
from bench.config.schema import Shipped
from bench.execution.selection import select_runs
from bench.training import initialization
from models import pretrained, weights
from models.pretrained import Card
from models.published import WeightsError

TABLE3 = Path("ablations/table3.yaml")


@pytest.mark.parametrize("name", pretrained.names())
def test_what_ships_is_small_and_fits_its_card(name: str) -> None:
    card = pretrained.card(name)
    assert (pretrained.FOLDER / f"{name}.safetensors").stat().st_size <= 4_000_000
    assert sum(tensor.numel() for tensor in pretrained.read(name).values()) == card.facts["parameters"]
    text = (pretrained.FOLDER / f"{name}.md").read_text()
    for value in (card.facts["gives"], card.sha256, card.facts["command"], card.facts["commit"], card.facts["license"]):
        assert value in text


def test_the_command_of_the_card_makes_the_run_that_it_names() -> None:
    facts = pretrained.card("tiny_surface_points").facts
    _, _, _, path, only, label = shlex.split(facts["command"])
    assert only == "--only"
    assert [run.id for run in select_runs(load(path), label)] == [facts["run"]]


def test_tiny_ours_start_from_it_and_the_encoder_learns_slowly() -> None:
    runs = {run.label: run.spec for run in load(TABLE3, ["seeds=[0]"]).runs}
    for label in ("Ours1", "Ours2"):
        model = initialization.build(runs[label], None)
        shipped = pretrained.read("tiny_surface_points")
        state = model.parts()["encoder"].state_dict()
        assert state.keys() == shipped.keys()
        assert all(torch.equal(state[key], shipped[key]) for key in shipped)
        assert runs[label].train.parts.encoder.rate == 0.1
    assert runs["FreeSplatter"].init.encoder == "scratch"


def test_the_id_is_that_of_the_content() -> None:
    run = load(TABLE3, ["seeds=[0]"]).runs[1]
    of, shipped = run.spec, run.spec.init.encoder
    assert isinstance(shipped, Shipped)
    assert from_dict(json.loads(json.dumps(to_dict(of)))) == of
    for encoder, same in ((replace(shipped, shipped="another"), True), (replace(shipped, sha256="0" * 64), False)):
        assert (run_id(replace(of, init=replace(of.init, encoder=encoder))) == run.id) is same


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("init.encoder.shipped=tiny_surface_point", "no weights 'tiny_surface_point' ship .did you mean"),
        ("model.encoder.blocks=2", r"is for encoder croco with blocks 4; here it has blocks 2: use init\.encoder: scr"),
        ("model.encoder=conv", "is for encoder croco"),
        ("init.head.shipped=tiny_surface_points", "is for the encoder"),
    ],
)
def test_what_does_not_fit_is_refused_when_the_spec_is_read(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load("ablations/blocks.yaml", [override])


def test_a_damaged_or_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (name, *_) = pretrained.names()
    for file in pretrained.FOLDER.glob(f"{name}.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    (tmp_path / f"{name}.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(WeightsError, match=f"{name}.safetensors is not the file that {name}.json describes"):
        pretrained.read(name)
    (tmp_path / f"{name}.safetensors").unlink()
    with pytest.raises(WeightsError, match="is missing: check out the repository again"):
        pretrained.read(name)


def test_ship_writes_weights_and_card_of_a_finished_run(tmp_path: Path) -> None:
    of = spec(steps=2)
    run = train(tmp_path / "aaa", of).path
    (run / "spec.json").write_text(json.dumps({"spec": to_dict(of)}))
    with pytest.raises(UserError, match="has not finished training"):
        ship.main([str(tmp_path), "mine", "--command", "x"])
    assert ship.main([str(run), "mine", "--command", "python -m bench.run mine.yaml", "--to", str(tmp_path)]) == 0
    values: Mapping[str, Any] = json.loads((tmp_path / "mine.json").read_text())
    card = Card("mine", values["part"], values["spec"], values["sha256"], values["facts"])
    trained = weights.part_of(weights.read_own(run / "weights.safetensors"), "encoder")
    assert card.facts["parameters"] == sum(tensor.numel() for tensor in trained.values())
    assert 0 < card.facts["largest_rounding"] < 1e-3
    assert card.spec == json.loads((run / "spec.json").read_text())["spec"]["model"]["encoder"]
    text = (tmp_path / "mine.md").read_text()
    assert "python -m bench.run mine.yaml" in text and "TFLOP" not in text and "What it gives" not in text
    write_json(run / "profiles" / "cpu-1.json", {"forward_gflop": 250.0})
    ship.main([str(run), "mine", "--command", "x", "--gives", "+1 dB: SWEEP", "--to", str(tmp_path)])
    text = (tmp_path / "mine.md").read_text()
    operations = 3 * 250 * of.train.batch * of.train.steps / 1000
    assert f"{operations:.3g} TFLOP" in text and text.endswith("## What it gives\n\n+1 dB: SWEEP\n")
