"""The table of costs: from profiles, with ratios to the reference beside the paper's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from support.paths import ROOT
from support.sweeps import PROTOCOL, evaluation, profile, record_sweep, samples

import bench.report
from bench import figures
from bench.analysis import tables
from bench.common.json_files import read_json, read_lines, write_json
from bench.runs.folder import RunFolder, State, Status, write_sweep

STEPS = {"FreeSplatter": 200.0, "Ours1": 150.0, "Ours2": 160.0}


def written(results: Path, more: dict[str, object], study: str = "cost") -> dict[str, Path]:
    """The tables of a study of cost, of whose runs each has a profile."""
    folder, runs = record_sweep(results, ROOT / "ablations" / f"{study}.yaml")
    for run in runs:
        of_run = RunFolder(results / "runs" / run.id)
        write_json(of_run.path / "profiles" / "cpu-1.json", profile(STEPS.get(run.label, 100.0)) | more)
        of_run.set_status(Status(State.DONE))
    return {path.name: path for path in tables.write(folder, results)}


def test_costs_and_their_ratios_stand_beside_the_papers(tmp_path: Path) -> None:
    measured = {"scenes_per_s": 80.0, "mfu": 0.25, "matmul_tflops": 0.05, "matmul_dtype": "float32",
                "phases_overhead": 0.0123, "weights": "initial",
                "inference": {"latency_ms": 35.0, "views_per_s": 1110.0}}  # fmt: skip
    files = written(tmp_path, measured)
    table = pd.read_csv(files["cost.csv"], index_col=0)
    assert list(table["Time ÷ reference"]) == [1.0, 0.75, 0.8]
    assert list(table["Paper: memory"])[1:] == [0.76, 0.77] and table["Paper: memory"].isna().iloc[0]
    assert table["Paper: time"].isna().tolist() == [True, True, False] and table["Paper: time"].iloc[2] == 0.75
    assert list(table["Measuring phases"]) == ["+1.2%"] * 3
    assert list(table["MFU"]) == ["25%"] * 3 and list(table["Latency [ms]"]) == [35] * 3
    text = files["cost.md"].read_text()
    for part in (
        "Reference: FreeSplatter",
        "Weights are not trained",
        "0.05 TFLOP/s of float32",
        "which memory is not",
    ):
        assert part in text


@pytest.mark.parametrize("study", ["cost", "memory"])
def test_a_study_of_cost_shows_no_quality_of_models_that_are_hardly_trained(tmp_path: Path, study: str) -> None:
    written(tmp_path, {"scenes_per_s": 80.0}, study)
    for run in (tmp_path / "runs").iterdir():
        write_json(run / "evals" / f"{PROTOCOL.key}.json", evaluation(12.0, 6.0))
        samples(run / "samples", 0.0)
    folder = tmp_path / f"{study}_tiny"
    files = {path.name: path for path in tables.write(folder, tmp_path)}
    assert set(files) == {"cost.csv", "cost.md", "table.csv", "table.md", "table.tex"}
    for name in ("table.md", "table.tex", "table.csv"):
        assert "PSNR" not in files[name].read_text() and "nearest input view" not in files[name].read_text(), name
    assert figures.write(folder, tmp_path, ["qualitative", "comparison"]) == []
    sweep = bench.report.open(folder)
    first, second = sweep.result_tables()
    assert "Time ÷ reference" in first.cells
    assert list(second.cells) == ["", "Params.", "Host mem. [GiB]", "Step [ms]", "Pretraining [TFLOP]", "Status"]
    assert "hardly trained" in sweep.figure("qualitative").html and "Time ÷ reference" in sweep.show("results").html
    assert "ratios to the reference" in sweep.show("answers").html
    assert sweep.show("paper").html.count("PSNR") == 1  # the paper's


def test_a_study_of_cost_removes_the_quality_of_an_earlier_sweep_of_its_name(sweep_copy: Path) -> None:
    """And no file that the harness does not write."""
    results, drawn, tabulated = sweep_copy.parent, sweep_copy / "figures", sweep_copy / "tables"
    mine = [
        drawn / "comparison.svg",
        drawn / "model_of_mine.svg",
        tabulated / "table_of_mine.md",
        tabulated / "paper.tex",
    ]
    former = [drawn / "number_of_views.svg", tabulated / "table_per_image_white@1_08_inputs.csv"]
    for path in (*mine, *former):
        path.write_text("")
    quality = [drawn / "qualitative.png", drawn / "comparison.png", tabulated / "answers.md", tabulated / "answers.tex"]
    assert all(path.is_file() for path in quality)
    lines = [line | {"spec": line["spec"] | {"study": "cost"}} for line in read_lines(sweep_copy / "runs.jsonl")]
    write_sweep(sweep_copy, read_json(sweep_copy / "sweep.json"), lines, {})
    tables.write(sweep_copy, results)
    figures.write(sweep_copy, results, [kind for kind in figures.KINDS if kind != "model"])
    assert not [path.name for path in (*quality, *former) if path.exists()]
    assert all(path.is_file() for path in (*mine, drawn / "loss_curves.svg", drawn / "model_Ours1.svg"))
    assert {path.name for path in tabulated.glob("table.*")} == {"table.csv", "table.md", "table.tex"}


def test_a_summary_without_its_runs_keeps_its_figures(sweep_copy: Path) -> None:
    shutil.rmtree(sweep_copy.parent / "runs")
    before = {path.name for path in (sweep_copy / "figures").iterdir()}
    assert figures.write(sweep_copy, sweep_copy.parent) == []
    assert {path.name for path in (sweep_copy / "figures").iterdir()} == before


def test_a_summary_beside_some_of_its_runs_keeps_what_it_has_of_others(sweep_copy: Path) -> None:
    lines = [line | {"status": "done"} for line in read_lines(sweep_copy / "runs.jsonl")]
    write_sweep(sweep_copy, read_json(sweep_copy / "sweep.json"), lines, {})
    shutil.rmtree(sweep_copy.parent / "runs" / lines[0]["id"])
    (sweep_copy / "figures" / "memory_by_part.png").write_text("")
    (sweep_copy / "tables" / "table1.md").write_text("")
    tables.write(sweep_copy, sweep_copy.parent)
    figures.write(sweep_copy, sweep_copy.parent, ["memory_by_part"])
    assert (sweep_copy / "figures" / "memory_by_part.png").exists() and (sweep_copy / "tables" / "table1.md").exists()


def test_profiles_from_before_such_measurements_make_no_table(tmp_path: Path) -> None:
    assert "cost.md" not in written(tmp_path, {})


def test_a_sweep_of_one_base_is_not_compared_with_the_papers_models(tmp_path: Path) -> None:
    files = written(tmp_path, {"scenes_per_s": 80.0}, "memory")
    table = pd.read_csv(files["cost.csv"], index_col=0)
    assert len(table) == 11 and list(table["Time ÷ reference"]) == [1.0] * 11
    assert not [heading for heading in table if "Paper" in heading] and "The paper" not in files["cost.md"].read_text()
