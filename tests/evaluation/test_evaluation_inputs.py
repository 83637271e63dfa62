"""A model trained with some number of input views, evaluated with others: results and tables by number, one run."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.base_models import BASES
from support.in_process import trained_once

import bench.report
from bench import config, figures
from bench.analysis import tables
from bench.common.errors import ConfigError
from bench.execution.session import sweep_lines
from bench.runs.folder import write_sweep

SPEC = """# Do more views help?
base: freesplatter
set:
  model: {encoder.width: 48, aggregator: {blocks: 1, heads: 2, view_embedding: reference_source}}
  model.head: {name: dpt, taps: [0, 0, 1, 1], layer_dims: [8, 8, 8, 8], features: 8, last_dim: 8}
  train: {steps: 2, batch: 2, warmup_steps: 1, geometry_first: 0}
  data: {name: procedural, training_scenes: 4, validation_scenes: 1, evaluation_scenes: 2}
  evaluation.scenes: 2
  losses.lpips: null
"""
KEY = "per_image_white@1"


def write(path: Path, numbers: str) -> Path:
    path.write_text(SPEC + f"  views.evaluation_inputs: {numbers}\n")
    return path


def test_each_number_has_a_result_and_a_table(tmp_path: Path) -> None:
    """It is no part of the run's id: a number that is asked for later is evaluated alone."""
    path = tmp_path / "views.yaml"
    path.write_text(SPEC)
    (plain,) = config.load(path).runs
    (run,) = config.load(write(path, "[1, 4]")).runs
    assert run.id == plain.id and run.spec.views.other_inputs == (1,)
    trained_once(path, tmp_path)(run.label)
    first = (tmp_path / "runs" / run.id / "evals" / f"{KEY}.json").stat().st_mtime_ns
    sweep = config.load(write(path, "8"))
    folder = trained_once(path, tmp_path)(run.label)
    results = folder.evaluations()
    assert [*results] == [KEY, f"{KEY}_01_inputs", f"{KEY}_08_inputs"]
    assert [{len(v["inputs"]) for v in result["views"].values()} for result in results.values()] == [{4}, {1}, {8}]
    assert all(result["means"]["psnr"] > 0 for result in results.values())
    assert (folder.path / "evals" / f"{KEY}.json").stat().st_mtime_ns == first
    assert not [*folder.path.glob("evaluating-*")]
    write_sweep(tmp_path / "views_tiny", {"name": "views", "scale": "tiny"}, sweep_lines(sweep, tmp_path), {})
    written = [file.name for file in tables.write(tmp_path / "views_tiny", tmp_path) if file.suffix == ".md"]
    assert written == ["table.md", "number_of_views.md", f"table_{KEY}_01_inputs.md", f"table_{KEY}_08_inputs.md"]
    text = (tmp_path / "views_tiny" / "tables" / f"table_{KEY}_08_inputs.md").read_text()
    assert "8 inputs and 4 targets" in text and "mean of the inputs" in text
    together = bench.report.open(tmp_path / "views_tiny").number_of_views()
    assert together is not None and together.cells["N"].tolist() == ["1", "4", "8"]
    assert together.cells["PSNR ↑"].astype(float).tolist() == pytest.approx(
        [results[key]["means"]["psnr"] for key in (f"{KEY}_01_inputs", KEY, f"{KEY}_08_inputs")], abs=0.01
    )
    drawn = figures.write(tmp_path / "views_tiny", tmp_path, ["number_of_views"])
    assert [path.name for path in drawn] == ["number_of_views.png", "number_of_views.svg"]


@pytest.mark.parametrize(
    ("base", "overrides", "numbers", "text"),
    [
        ("freesplatter", ["model.aggregator.view_embedding=per_view"], "8",
         "8 input views cannot be evaluated: per_view embeddings for 4 views, but 8 inputs"),
        ("dust3r", [], "3", "3 input views cannot be evaluated: this model takes 2 input views"),
        ("lrm", [], "4", "4 input views cannot be evaluated: this model takes 1 input view"),
        ("vggt", ["model.aggregator={name: cross_attention, blocks: 2}", "model.encoder.width=192"], "1",
         "1 input views cannot be evaluated: cross-attention reads the other views"),
        ("freesplatter", [], "17", "17: from 1 to 16"),
        ("vggt", ["views.targets=30"], "16", "16 inputs and 30 targets, of "),
    ],
)  # fmt: skip
def test_what_a_model_cannot_take_is_refused_at_load(
    base: str, overrides: list[str], numbers: str, text: str, tmp_path: Path
) -> None:
    path = tmp_path / "views.yaml"
    path.write_text(f"base: {base}\nset:\n  views.evaluation_inputs: [{numbers}]\n")
    with pytest.raises(ConfigError) as refused:
        config.load(path, overrides)
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"{path}:3: views.evaluation_inputs: {text}"), line


@pytest.mark.parametrize("base", ["vggt", "pf_lrm", "gs_lrm"])
def test_from_one_to_sixteen_where_no_weight_belongs_to_a_view(base: str) -> None:
    (run,) = config.load(BASES / f"{base}.yaml", ["views.evaluation_inputs=[1, 16]"]).runs
    assert run.spec.views.other_inputs == (1, 16)
