"""Table 1 as run: bases in words, what the paper prints otherwise, rows that beat their trivial baseline or do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.base_models import BASES
from support.paths import ROOT
from support.sweeps import evaluation, record_sweep, write_run

from bench.analysis import paper, systematization, tables
from bench.analysis.formatting import read_markdown
from bench.analysis.sweep_results import resolved_fields
from bench.common.json_files import read_json, write_json
from bench.config import load, to_dict
from bench.runs.folder import RunFolder
from bench.runs.states import State

SPEC = ROOT / "ablations" / "table1.yaml"


def fields_of(base: str, scale: str = "paper") -> dict[str, Any]:
    return resolved_fields(to_dict(load(BASES / f"{base}.yaml", scale=scale).runs[0].spec))


@pytest.mark.parametrize(("base", "differs"), [
    ("dust3r", "E"), ("mast3r", "E"), ("splatt3r", "E"), ("noposplat", "E"), ("lrm", "EA"), ("pf_lrm", "EA"),
    ("gs_lrm", "E"), ("freesplatter", ""), ("ours2", ""),
])  # fmt: skip
def test_words_are_the_papers_where_the_parts_are(base: str, differs: str) -> None:
    """Where E starts from scratch, and the paper's from pretrained weights, a footnote says so."""
    row = systematization.describe(fields_of(base), base)
    printed = systematization.printed_row(base)
    assert printed is not None and "".join(slot for slot, _, _ in row.differences) == differs
    assert (row.inputs, row.poses.partition(" ")[0]) == (printed.inputs, fields_of(base)["model.poses"])


def test_e_says_what_it_starts_from() -> None:
    words = {base: systematization.describe(fields_of(base, "tiny"), base).E for base in ("ours1", "dust3r")}
    assert words == {"ours1": "CroCo, pretrained (tiny_surface_points, shipped)", "dust3r": "CroCo, from scratch"}
    runs = {run.label: run.spec for run in load(SPEC).runs}
    splatt3r = resolved_fields(to_dict(runs["Splatt3R"]))
    assert systematization.describe(splatt3r, "splatt3r").E == "pretrained MASt3R E"


def test_every_row_of_the_paper_has_a_base() -> None:
    bases = [path.stem for path in BASES.glob("*.yaml")]
    rows = {systematization.printed_row(base) for base in bases} - {None}
    assert rows == set(paper.TABLE_1)


def kind_of_evaluation(output: str) -> dict[str, Any]:
    """The metrics that outputs of this name have, with the baselines of their kind."""
    result = evaluation(14.0, 10.0)
    measured = {"pointmap": {"point_error": 0.1}, "pixels": {"completion_error": 1.1}}.get(output)
    if measured:
        result["means"] = measured
        name = "constant" if output == "pointmap" else "patch_mean"
        baseline = {"label": name, "oracle": False, "means": dict.fromkeys(measured, 1.0)}
        result["baselines"] = result["baselines"] | {name: baseline}
    return result


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    results = tmp_path_factory.mktemp("results")
    folder, runs = record_sweep(results, SPEC)
    for run in runs:
        target = RunFolder(results / "runs" / run.id)
        write_run(target, run, State.DONE, 14.0, 10.0, 100.0)
        (path,) = (target.path / "evals").glob("*.json")
        write_json(path, read_json(path) | kind_of_evaluation(run.spec.model.output.name))
    record_sweep(results, SPEC)
    tables.write(folder, results)
    written = read_markdown((folder / "tables" / "table1.md").read_text(encoding="utf-8"))
    notes = "\n".join(written.remarks)
    assert "‡ LRM follows its public code (DINO's tokens as E, plane tokens as A)." in notes
    assert "‡ LRM: as A the paper prints self-attention within the view, here it is plane tokens" in notes
    return written.cells.set_index(written.cells[""].str.removesuffix(" ‡"))


def test_metrics_that_a_row_has_not_are_empty_cells(table: pd.DataFrame) -> None:
    assert list(table.index) == [run.label for run in load(SPEC).runs]
    assert table.loc["DUSt3R", "PSNR ↑"] == "" and table.loc["DUSt3R", "Point err. ↓"] == "0.100"
    assert table.loc["CroCo", "Completion err. ↓"] == "1.100" and table.loc["Ours1", "Completion err. ↓"] == ""
    assert table.loc["Ours2", ["Inputs", "Poses", "D"]].tolist() == ["N", "unknown", "DPT head"]


def test_each_row_says_whether_it_beats_its_trivial_baseline(table: pd.DataFrame) -> None:
    verdicts = table["Trivial baseline"]
    assert verdicts["Ours1"] == "NOT beaten: mean of the inputs, PSNR 18.10"
    assert verdicts["MASt3R"] == "beaten: constant, Point err. 1.000"
    assert verdicts["CroCo"].startswith("NOT beaten: patch_mean, Completion err.")


def test_what_is_not_comparable_is_marked(table: pd.DataFrame) -> None:
    marks = table["Not comparable in"]
    assert marks["LRM"] == "1 input view, poses known" and marks["GS-LRM"] == "poses known"
    assert marks["NoPoSplat"] == "2 input views, intrinsics known" and marks["PF-LRM"] == marks["Ours1"] == ""
    assert marks["VGGT"] == "images resized to 7/8 inside E"


def test_a_sweep_of_one_kind_of_model_has_no_such_table(tmp_path: Path) -> None:
    folder, runs = record_sweep(tmp_path, ROOT / "ablations" / "patch_size.yaml")
    write_run(RunFolder(tmp_path / "runs" / runs[0].id), runs[0], State.DONE, 14.0, 10.0, 100.0)
    tables.write(folder, tmp_path)
    assert not (folder / "tables" / "table1.md").exists() and (folder / "tables" / "table.md").is_file()
