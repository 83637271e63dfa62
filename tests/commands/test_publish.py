"""A sweep's published summary: all that a report needs of it, nothing else, and the data's attribution with it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import bench.report
from bench import publish
from bench.common.errors import UserError
from bench.common.json_files import read_json, read_lines
from bench.runs.folder import write_sweep


def test_the_summary_holds_what_a_report_needs(
    sweep_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("meshes", "held_out"):
        (tmp_path / name).mkdir()
    (tmp_path / "held_out" / "ATTRIBUTION.md").write_text("Ann made it")
    lines = read_lines(sweep_copy / "runs.jsonl")
    for line in lines:
        line["spec"]["data"] |= {"root": str(tmp_path / "meshes"), "evaluation_root": str(tmp_path / "held_out")}
    write_sweep(sweep_copy, read_json(sweep_copy / "sweep.json"), lines, read_json(sweep_copy / "environment.json"))
    longer = f"{tmp_path / 'meshes'}_v2 /data{tmp_path / 'meshes'}"  # other paths, which hold this one
    (sweep_copy / "report.html").write_text(f"trained on {tmp_path / 'meshes'}, not {longer}")
    monkeypatch.setattr(sys, "argv", ["publish", str(sweep_copy), "--to", str(tmp_path / "published")])
    assert publish.main() == publish.main() == 0  # again: replaced
    published = tmp_path / "published" / sweep_copy.name
    assert sorted(path.name for path in published.iterdir()) == [
        "ATTRIBUTION-held_out.md", "environment.json", "figures", "report.html", "runs.jsonl", "sweep.json", "tables"
    ]  # fmt: skip
    assert (published / "report.html").read_text() == f"trained on meshes, not {longer}"
    assert (published / "ATTRIBUTION-held_out.md").read_text() == "Ann made it"
    assert str(tmp_path / "meshes") not in (published / "runs.jsonl").read_text()
    assert {line["spec"]["data"]["root"] for line in read_lines(published / "runs.jsonl")} == {"meshes"}
    whole, summary = bench.report.open(sweep_copy), bench.report.open(published)
    assert summary.summary_only and not whole.summary_only
    for section in ("answers", "results"):
        assert summary.show(section).html == whole.show(section).html
    assert list(summary.differences().verdict) == list(whole.differences().verdict)


def test_no_path_of_weights_is_published(sweep_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = read_lines(sweep_copy / "runs.jsonl")
    lines[0]["spec"]["init"] = {"encoder": {"weights": str(tmp_path / "dino.pth")}, "head": "scratch"}
    write_sweep(sweep_copy, read_json(sweep_copy / "sweep.json"), lines, read_json(sweep_copy / "environment.json"))
    monkeypatch.setattr(sys, "argv", ["publish", str(sweep_copy), "--to", str(tmp_path / "published")])
    assert publish.main() == 0
    published = read_lines(tmp_path / "published" / sweep_copy.name / "runs.jsonl")
    assert published[0]["spec"]["init"]["encoder"] == {"weights": "dino.pth"}


def test_an_unfinished_sweep_is_refused(sweep_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (sweep_copy / "environment.json").unlink()
    monkeypatch.setattr(sys, "argv", ["publish", str(sweep_copy)])
    with pytest.raises(UserError, match=r"has no environment\.json"):
        publish.main()


def test_data_whose_attribution_is_out_of_reach_is_refused(
    sweep_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative data.root, and another working folder than the sweep's: its authors' names were left out."""
    lines = read_lines(sweep_copy / "runs.jsonl")
    lines[0]["spec"]["data"] |= {"root": "meshes"}
    write_sweep(sweep_copy, read_json(sweep_copy / "sweep.json"), lines, read_json(sweep_copy / "environment.json"))
    monkeypatch.setattr(sys, "argv", ["publish", str(sweep_copy), "--to", str(tmp_path / "published")])
    with pytest.raises(UserError, match=r"no folder meshes.*run this where the sweep was run"):
        publish.main()
    assert not (tmp_path / "published").exists()
