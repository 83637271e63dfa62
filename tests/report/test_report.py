"""The report of sweeps whose folders are written here: notebook and page, what they say and what they never do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from support.paths import ROOT
from support.sweeps import evaluation, profile, samples

import bench.report
from bench import config
from bench.analysis import deviations, paper
from bench.common.errors import UserError
from bench.common.json_files import write_json
from bench.execution.session import sweep_lines
from bench.runs.folder import RunFolder, Status, write_sweep

NASTY = '<script>alert("x")</script> & <img src=http://example.org/a.png onerror=b>'
ENVIRONMENT = {"commit": "0123456789abcdef0123456789abcdef01234567+", "device_name": "a processor", "threads": 2}


def make(results: Path, scale: str = "tiny") -> Path:
    """table3 as bench.run records it: FreeSplatter done, Ours1 failed with a nasty message, Ours2 never begun."""
    sweep = config.load(ROOT / "ablations" / "table3.yaml", scale=scale)
    done, failed, _ = (RunFolder(results / "runs" / run.id) for run in sweep.runs)
    for run, folder in zip(sweep.runs, (done, failed), strict=False):
        write_json(folder.path / "spec.json", {"id": run.id, "label": run.label, "spec": config.to_dict(run.spec)})
        write_json(folder.path / "environment.json", ENVIRONMENT)
        records = [{"step": s, "loss/points": 1 / s, "loss/mse": 0.1 / s} for s in range(1, 12)]
        (folder.path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    done.set_status(Status("done"))
    content = evaluation(17.43, 13.32)
    per_scene = dict.fromkeys(content["scenes"], content["means"])
    write_json(done.path / "evals" / "per_image_white@1.json", content | {"per_scene": per_scene})
    measured = {"threads": 2, "world": 1, "step_time_ms_p10": 210.4, "step_time_ms_p90": 240.2}
    write_json(done.path / "profiles" / "cpu-1.json", profile(222.2) | measured)
    samples(done.path / "samples", 0.1)
    failed.set_status(Status("failed", "train", NASTY, "Traceback: the last line"))
    (failed.path / "log.txt").write_text("a log\n")
    told = {"name": "table3", "scale": scale, "question": f"Which? {NASTY}", "spec": "ablations/table3.yaml",
            "overrides": ["train.steps=60"], "bases": config.bases_at_paper_scale(sweep)}  # fmt: skip
    folder = results / f"table3_{scale}"
    write_sweep(folder, told, sweep_lines(sweep, results), ENVIRONMENT)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make(tmp_path_factory.mktemp("results"))
    assert [path.name for path in bench.report.write(folder)] == ["report.ipynb", "report.html"]
    return folder


class Page(HTMLParser):
    """What a page loads, its text, and its tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [str(value) for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        assert not [name for name, _ in attrs if name.startswith("on")], attrs

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text())


def test_the_page_needs_nothing_from_outside_and_runs_nothing(folder: Path, page: Page) -> None:
    assert not {"script", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert page.loads and all(load.startswith(("data:", "#")) for load in page.loads)
    text = (folder / "report.html").read_text()
    assert "default-src 'none'; img-src data:" in text and "@import" not in text and "url(" not in text
    assert len(text) < 5_000_000


def test_text_of_users_is_escaped_and_told(folder: Path, page: Page) -> None:
    assert sum(NASTY in text for text in page.text) == 2  # the question and the failure's message
    assert "<script" not in (folder / "report.html").read_text()


def test_the_page_tells_the_sweep(page: Page) -> None:
    text = " ".join(" ".join(page.text).split())
    for part in ("Of 3 runs: 1 done, 1 failed, 1 planned", "no evidence for claims 1 and 2", "self_attention (4, 4)",
                 "per_image_white@1", "nearest input view", "flat mean color", "17.43", "Traceback: the last line",
                 "in train", "/log.txt", "--retry failed", "Ours2", "git checkout 0123456789abcdef", "the sweep ran",
                 "python -m bench.run ablations/table3.yaml train.steps=60", "210–240", "a processor, batch 16",
                 "median wall time of 10 steps", "procedural 1", "G-Objaverse: 264,775 scenes",
                 "procedural: 400 training and 32 evaluation scenes", "from scratch"):  # fmt: skip
        assert part in text, part
    headings = ["Question", "Variants", "Results", "The paper", "Loss curves", "Pictures and depth",
                "Parameters, memory and time", "Failures", "Environment", "Reproduce"]  # fmt: skip
    assert [load[1:] for load in page.loads if load.startswith("#")][:2] == ["question", "variants"]
    assert page.tags.count("h2") == len(headings) and all(heading in text for heading in headings)
    assert page.tags.count("figure") == 5  # two drawings, comparison, curves, pictures


def test_the_notebook_is_executed_calls_only_and_is_the_same_when_made_again(folder: Path) -> None:
    before = {name: (folder / name).read_bytes() for name in ("report.ipynb", "report.html")}
    notebook = nbformat.reads(before["report.ipynb"].decode(), as_version=4)
    nbformat.validate(notebook)
    assert [cell.id for cell in notebook.cells] == [f"cell-{i:02d}" for i in range(len(notebook.cells))]
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(len(cell.source.splitlines()) == 1 for cell in cells[1:])
    assert not [output for cell in cells for output in cell.outputs if output.output_type in ("error", "stream")]
    bench.report.write(folder)
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_the_cells_give_dataframes(folder: Path) -> None:
    sweep = bench.report.open(folder)
    assert sweep.runs().status.tolist() == ["done", "failed", "planned"]
    table = sweep.table().set_index("label")
    assert (
        table.psnr["FreeSplatter"] == 17.43 and pd.isna(table.psnr["Ours1"]) and table.kind["white image"] == "baseline"
    )
    assert sweep.scenes().groupby("label").psnr.mean()["FreeSplatter"] == 17.43
    metrics = sweep.metrics()
    assert metrics.groupby("label").step.max().to_dict() == {"FreeSplatter": 11, "Ours1": 11}
    assert set(sweep.metrics("Ours1").label) == {"Ours1"}
    assert sweep.costs().set_index("label").step_time_ms["FreeSplatter"] == 222.2
    with pytest.raises(UserError, match="choose from question, variants"):
        sweep.show("answers")


def test_neither_the_command_nor_a_cell_imports_torch(folder: Path) -> None:
    code = ("import runpy, sys, bench.report, bench.report.__main__, bench.report.notebook, bench.report.page; "
            "runpy.run_path(bench.report.notebook.TEMPLATE); sys.exit('torch' in sys.modules)")  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code], cwd=folder, env=pythonpath()).returncode == 0


def pythonpath() -> dict[str, str]:
    import os

    return os.environ | {"PYTHONPATH": str(ROOT)}


def test_the_papers_numbers_never_stand_in_a_column_of_ours(folder: Path) -> None:
    beside = bench.report.open(folder).paper()
    assert {whose for whose, _ in beside.columns} == {"model", "paper", "tiny"}
    printed = {result.psnr for result in paper.TABLE_3}
    assert set(beside["paper", "psnr"]) == printed and not set(beside["tiny", "psnr"].dropna()) & printed
    assert beside["model", ""].tolist() == ["FreeSplatter", "Ours1", "Ours2"] == beside["tiny", "setting"].tolist()


def test_deviations_are_those_of_the_resolved_specs(folder: Path, tmp_path: Path) -> None:
    found = bench.report.open(folder).deviations().set_index("setting")
    assert found.loc["train.steps", ["paper", "here", "runs"]].tolist() == ["200K steps (§3.2)", "600", "all"]
    assert found.loc["init.encoder", "runs"] == "Ours1; Ours2" and found.loc["init.encoder", "here"] == "from scratch"
    assert found.loc["hardware", "here"] == "1 × a processor"
    blocks = found.loc[["model.aggregator.blocks"]]
    assert dict(zip(blocks.paper, blocks.runs, strict=True)) == {
        "24 in FreeSplatter (Table 2)": "FreeSplatter",
        "12 in Ours1 (Table 2)": "Ours1",
        "12 in Ours2 (Table 2)": "Ours2",
    }
    open_ = deviations.unspecified_by_paper(bench.report.open(folder)).set_index("setting")
    assert open_.loc["model.output.color_residual", ["base", "here"]].tolist() == ["no", "yes"]
    assert not {"train.steps", "model.encoder.patch", "seed"} & set(open_.index)

    at_paper_scale = bench.report.open(make(tmp_path, "paper"))
    assert at_paper_scale.deviations().setting.tolist() == ["hardware"]
    assert len(deviations.matched_settings(at_paper_scale)) == len(paper.RECIPE)
    assert deviations.unspecified_by_paper(at_paper_scale).empty


@pytest.mark.parametrize(
    ("init", "told"),
    [({"init.encoder": "scratch"}, ["init.encoder", "from scratch"]), ({"init.encoder.weights": "mast3r.pth"}, []),
     ({"init.encoder.run": "pretraining"}, ["init.encoder", "from pretraining"]),
     ({"init.encoder": "scratch", "init.model.weights": "whole.pth"}, ["init.model", "from whole.pth"])],
)  # fmt: skip
def test_initialization_is_told_where_it_is_not_the_papers(init: dict[str, str], told: list[str]) -> None:
    fields = {"model.encoder.name": "croco", **init}
    found = [[row[1], row[3]] for row in deviations._initialization(fields, paper.TABLE_2[1])]
    assert found == ([told] if told else [])


@pytest.mark.parametrize(
    ("encoder", "aggregator", "head", "model"),
    [("conv", "self_attention", "linear", "FreeSplatter"), ("croco", "self_attention", "dpt", "Ours2"),
     ("conv", "self_attention", "dpt", None), ("croco", "cross_attention", "linear", None)],
)  # fmt: skip
def test_a_model_of_the_paper_has_its_parts(encoder: str, aggregator: str, head: str, model: str | None) -> None:
    parts = zip(("encoder", "aggregator", "head"), (encoder, aggregator, head), strict=True)
    found = deviations.model_of({f"model.{part}.name": name for part, name in parts})
    assert (found.model if found else None) == model


def sections(sweep: bench.report.SweepReport) -> Iterator[tuple[str, str]]:
    from bench.report.sections import CAPTIONS, SECTIONS

    yield from ((name, sweep.show(name).html) for name in SECTIONS)
    yield from ((name, sweep.figure(name).html) for name in CAPTIONS)


def test_a_sweep_without_runs_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "empty_tiny"
    write_json(folder / "sweep.json", {"name": "empty", "scale": "tiny", "question": ""})
    written = bench.report.write(folder)
    text = written[1].read_text()
    for part in ("The spec states no question", "This sweep holds no runs", "No results", "Nothing measured", "21.1"):
        assert part in text, part


def test_a_published_summary_is_shown_as_it_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "table3_tiny"
    shutil.copytree(ROOT / "results" / "published" / "table3_tiny", folder)
    sweep = bench.report.open(folder)
    bench.report.refresh(sweep)
    text = dict(sections(sweep))
    assert sweep.summary_only and sweep.table().psnr.iloc[0] > 0
    assert "All 3 runs are done" in " ".join(text["question"].split()) and "This is a summary" in text["question"]
    assert "per_image_white@1" in text["results"] and "baseline" in text["results"]
    assert all("data:image/" in text[name] for name in ("drawings", "loss_curves", "qualitative", "comparison"))
    assert "A summary tells only some" in text["paper"] and "None: every run is done" in text["failures"]


def test_what_is_missing_or_out_of_date_is_drawn_again(tmp_path: Path) -> None:
    folder = make(tmp_path)
    (folder / "figures").mkdir()
    (folder / "figures" / "model_FreeSplatter.svg").write_text("<svg/>")  # spares the process that draws it
    bench.report.refresh(bench.report.open(folder))
    made = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*") if path.suffix in (".png", ".md")}
    assert {path.name for path in made} == {"loss_curves.png", "qualitative.png", "comparison.png", "table.md"}
    bench.report.refresh(bench.report.open(folder))
    assert all(path.stat().st_mtime_ns == time for path, time in made.items())
    (ours1,) = (e.folder for e in bench.report.open(folder).read.entries if e.label == "Ours1")
    with (ours1.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 12, "loss/points": 9.0}\n')
    bench.report.refresh(bench.report.open(folder))
    assert all(path.stat().st_mtime_ns > time for path, time in made.items())


def test_a_folder_that_is_no_sweep_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from bench.report.__main__ import main

    with pytest.raises(UserError, match=r"no sweep\.json"):
        main([str(tmp_path)])


def test_runs_elsewhere_are_named_in_the_notebook(tmp_path: Path) -> None:
    from bench.report.notebook import _template

    source: Any = _template(tmp_path / "a" / "sweep", tmp_path / "runs_here").cells[1].source
    assert "open('.', results='../../runs_here')" in source.replace('"', "'")
