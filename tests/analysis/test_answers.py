"""The answer of a sweep: each setting minus the reference, a grid's main effects, fields that nobody swept."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from support.sweeps import record_sweep, write_run

import bench.report
from bench.analysis import tables
from bench.analysis.formatting import read_markdown
from bench.common.errors import UserError
from bench.common.json_files import read_json, write_json
from bench.runs.folder import RunFolder
from bench.runs.states import State

SPEC = """# Which?
base: freesplatter
set: {data: {name: procedural, training_scenes: 16, validation_scenes: 16, evaluation_scenes: 16}, losses.lpips: null}
"""
GRID = """grid: {model.encoder.patch: [4, 8]}
scales: {tiny: {grid: {model.aggregator.blocks: [2, 4]}}}
seeds: [0, 1, 2]
"""
PART = "runs: [{name: plain}, {name: crossed, model.encoder: croco}]\n"


def sweep_of(folder: Path, swept: str, psnr: dict[str, float], noise: float = 0.01) -> Path:
    """A sweep whose settings have these PSNRs (by label without seed), and seeds that differ a little."""
    spec = folder / "question.yaml"
    spec.write_text(SPEC + swept)
    sweep, runs = record_sweep(folder / "results", spec)
    for i, run in enumerate(runs):
        value = psnr[run.label.partition(", seed ")[0]] + noise * (i % 3) + 0.001 * (i % 2)
        write_run(RunFolder(folder / "results" / "runs" / run.id), run, State.DONE, value, value, 100.0)
    return sweep


def answers(sweep: Path) -> pd.DataFrame:
    tables.write(sweep, sweep.parent)
    return pd.read_csv(sweep / "tables" / "answers.csv").query("metric == 'psnr'").set_index(["kind", "variant"])


def test_settings_are_compared_with_the_reference_over_seeds(finished_sweep: Path) -> None:
    rows = pd.read_csv(finished_sweep / "tables" / "answers.csv").set_index(["variant", "metric"])
    ours1 = rows.loc["Ours1", "psnr"]
    assert ours1.difference == pytest.approx(0.95) and ours1.reference == "FreeSplatter"
    assert (ours1.low, ours1.high) == pytest.approx((0.95 - 12.706205 * 0.05, 0.95 + 12.706205 * 0.05))
    assert ours1.verdict == "decided" and ours1.over == "2 seeds" and ours1.scenes == 16
    assert "encoder croco (conv)" in ours1.fields and "Ours2" not in rows.index
    table = read_markdown((finished_sweep / "tables" / "answers.md").read_text())
    cells = table.cells.set_index("").loc["Ours1"]
    assert cells["Δ PSNR ↑"] == "+0.950 [+0.315, +1.585] decided" and cells["Interval over"] == "2 seeds"


def test_the_reference_of_the_spec_is_taken(sweep_copy: Path) -> None:
    write_json(sweep_copy / "sweep.json", read_json(sweep_copy / "sweep.json") | {"reference": "Ours1, seed 0"})
    table = answers(sweep_copy)
    assert table.loc["variant", "FreeSplatter"].difference == pytest.approx(-0.95)
    write_json(sweep_copy / "sweep.json", read_json(sweep_copy / "sweep.json") | {"reference": "Ours9"})
    with pytest.raises(UserError, match="reference 'Ours9' is no run; choose from FreeSplatter, Ours1, Ours2"):
        tables.write(sweep_copy, sweep_copy.parent)


def test_loss_terms_are_named_with_their_weights(tmp_path: Path) -> None:
    """A changed, an added and a dropped term; each is swept by the spec."""
    swept = """runs: [{name: plain}, {name: strong, losses.mse: 2.5}, {name: more, losses: {lpips: 0.5}},
  {name: less, losses: {points: null}, train.geometry_first: 0}]
"""
    rows = answers(sweep_of(tmp_path, swept, dict.fromkeys(("plain", "strong", "more", "less"), 20.0))).loc["variant"]
    assert (rows.fields["strong"], rows.fields["more"]) == ("mse 2.5 (1)", "lpips 0.5 (–)")
    assert "points no (yes)" in rows.fields["less"] and "points –" not in rows.fields["less"]


def test_a_grid_has_the_main_effect_of_each_swept_field(tmp_path: Path) -> None:
    """Patch 8 costs 2 dB and 4 blocks bring 1 dB, whatever the other."""
    psnr = {"patch 4, 2 blocks": 20.0, "patch 4, 4 blocks": 21.0, "patch 8, 2 blocks": 18.0, "patch 8, 4 blocks": 19.0}
    effects = answers(sweep_of(tmp_path, GRID, psnr)).loc["main effect"]
    assert effects.difference.to_dict() == pytest.approx({"patch 8": -2.0, "blocks 4": 1.0}, abs=0.01)
    assert effects.reference.to_dict() == {"patch 8": "patch 4", "blocks 4": "blocks 2"}
    assert (effects.verdict == "decided").all() and (effects.seeds == 3).all()
    text = (tmp_path / "results" / "question_tiny" / "tables" / "answers.md").read_text()
    assert "patch 8 − patch 4" in text and "blocks 4 − blocks 2" in text


def test_a_part_with_fields_is_named_with_them(tmp_path: Path) -> None:
    swept = (
        "grid: {model.head: [linear, {name: dpt, taps: [0, 1, 2, 4]}], model.encoder.patch: [4, 8]}\nseeds: [0, 1, 2]\n"
    )
    heads = ("linear", "dpt")
    psnr = {f"{head}, patch {patch}": 20.0 for head in heads for patch in (4, 8)}
    found = answers(sweep_of(tmp_path, swept, psnr)).loc["main effect"]
    assert found.loc["head dpt (taps 0, 1, 2, 4)"].reference == "head linear"


def test_one_seed_is_labeled_and_never_decided(tmp_path: Path) -> None:
    table = answers(sweep_of(tmp_path, "grid: {model.encoder.patch: [4, 8]}\n", {"patch 4": 20.0, "patch 8": 10.0}))
    assert table.verdict.tolist() == ["one seed only"] and table.over.tolist() == ["16 scenes, one seed"]


def test_a_field_that_nobody_swept_is_marked(tmp_path: Path) -> None:
    """Naming another encoder drops the base's patch."""
    sweep = sweep_of(tmp_path, PART, {"plain": 20.0, "crossed": 21.0})
    fields = answers(sweep).loc["variant", "crossed"].fields
    assert "encoder croco (conv)" in fields
    assert fields.count("not swept") >= 1 and "encoder croco (conv; not swept)" not in fields
    html = bench.report.open(sweep).show("variants").html
    assert "Not swept, but different between settings: model.encoder.patch" in html


def test_other_scenes_of_the_same_names_are_not_paired(tmp_path: Path) -> None:
    """Procedural scenes of another seed, such as those of a pretraining run."""
    runs = "runs: [{name: plain}, {name: wider, model.encoder.width: 96}, {name: elsewhere, data.seed: 7}]\n"
    rows = answers(sweep_of(tmp_path, runs, {"plain": 17.0, "wider": 17.5, "elsewhere": 12.0}))
    assert [variant for _, variant in rows.index] == ["wider"]


def test_a_sweep_of_one_setting_has_no_answer(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "seeds: [0, 1]\n", {"all seeds": 20.0, "seed 0": 20.0, "seed 1": 20.0})
    written = tables.write(sweep, sweep.parent)
    assert not [path for path in written if path.stem == "answers"]
    assert bench.report.open(sweep).differences().empty


def test_the_notebook_gives_differences_and_scenes_with_seeds(finished_sweep: Path) -> None:
    sweep = bench.report.open(finished_sweep)
    written = pd.read_csv(finished_sweep / "tables" / "answers.csv")
    pd.testing.assert_frame_equal(sweep.differences(), written, check_dtype=False)
    scenes = sweep.scenes()
    assert list(scenes)[:5] == ["label", "id", "group", "seed", "scene"] and len(scenes) == 4 * 16
    assert scenes.groupby("group").seed.unique().map(list).to_dict() == {"FreeSplatter": [0, 1], "Ours1": [0, 1]}
