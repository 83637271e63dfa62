"""The report of sweeps whose folders are written here: notebook and page, what they say and what they never do."""

from __future__ import annotations

import os
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
from support.sweeps import NASTY, record_sweep

import bench.report
from bench.analysis import deviations, paper
from bench.common.errors import UserError
from bench.common.json_files import read_json, write_json


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
def page(finished_sweep: Path) -> Page:
    return Page((finished_sweep / "report.html").read_text())


def test_the_page_needs_nothing_from_outside_and_runs_nothing(finished_sweep: Path, page: Page) -> None:
    assert not {"script", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert page.loads and all(load.startswith(("data:", "#")) for load in page.loads)
    text = (finished_sweep / "report.html").read_text()
    assert "default-src 'none'; img-src data:" in text and "@import" not in text and "url(" not in text
    assert len(text) < 5_000_000


def test_text_of_users_is_escaped_and_reported(finished_sweep: Path, page: Page) -> None:
    assert sum(NASTY in text for text in page.text) == 2  # the question and the failure's message
    assert "<script" not in (finished_sweep / "report.html").read_text()


def test_the_page_tells_the_sweep(page: Page) -> None:
    text = " ".join(" ".join(page.text).split())
    for part in ("Of 6 runs: 4 done, 1 failed, 1 planned", "do not carry over to the paper's scale",
                 "self_attention (4, 4)",
                 "per_image_white@1", "nearest input view", "flat mean color", "18.20 ± 0.28", "in train", "/log.txt",
                 "Traceback: the last line", "--retry failed", "Ours2", "git checkout 0123456789abcdef",
                 "the sweep ran", "+0.950 [+0.315, +1.585] decided", "Differences from FreeSplatter", "190–220",
                 "python -m bench.run ablations/table3.yaml train.steps=60 'seeds=[0, 1]'", "a processor, batch 16",
                 "load average 0.5",
                 "Estimate ÷ measured, Ours1: allocated 1.01, step 2.00", "median wall time of 10 steps",
                 "procedural 1", "G-Objaverse: 264,775 scenes",
                 "procedural: 400 training and 32 evaluation scenes", "from shipped tiny_surface_points"):  # fmt: skip
        assert part in text, part
    headings = ["Question and answer", "Variants", "Results", "The paper", "Loss curves", "Pictures and depth",
                "Parameters, memory and time", "Failures", "Environment", "Reproduce"]  # fmt: skip
    assert [load[1:] for load in page.loads if load.startswith("#")][:2] == ["question-and-answer", "variants"]
    assert page.tags.count("h2") == len(headings) and all(heading in text for heading in headings)
    assert page.tags.count("figure") == 6  # three drawings, comparison, curves, pictures


def test_the_notebook_is_executed_and_the_same_when_written_again(finished_sweep: Path, sweep_copy: Path) -> None:
    before = {name: (finished_sweep / name).read_bytes() for name in ("report.ipynb", "report.html")}
    notebook = nbformat.reads(before["report.ipynb"].decode(), as_version=4)
    nbformat.validate(notebook)
    assert [cell.id for cell in notebook.cells] == [f"cell-{i:02d}" for i in range(len(notebook.cells))]
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(len(cell.source.splitlines()) == 1 for cell in cells[1:])
    assert not [output for cell in cells for output in cell.outputs if output.output_type in ("error", "stream")]
    bench.report.write(sweep_copy)
    assert {name: (sweep_copy / name).read_bytes() for name in before} == before


def test_the_cells_give_dataframes(finished_sweep: Path) -> None:
    sweep = bench.report.open(finished_sweep)
    assert sweep.runs().status.tolist() == ["done"] * 4 + ["failed", "planned"]
    table = sweep.table().set_index("label")
    assert table.psnr["FreeSplatter"] == pytest.approx(18.2) and pd.isna(table.psnr["Ours2"])
    assert table.kind["white image"] == "baseline"
    assert sweep.scenes().groupby("group").psnr.mean()["FreeSplatter"] == pytest.approx(18.2)
    assert sweep.metrics().groupby("label").step.max().to_dict()["Ours2, seed 0"] == 11
    assert set(sweep.metrics("Ours1, seed 1").label) == {"Ours1, seed 1"}
    costs = sweep.costs().set_index("label")
    assert costs.step_time_ms["FreeSplatter, seed 1"] == 205.0 and costs.load_average["FreeSplatter, seed 1"] == 0.5
    with pytest.raises(UserError, match="choose from question, answers, variants"):
        sweep.show("nothing")


def test_neither_the_command_nor_a_cell_imports_torch(finished_sweep: Path) -> None:
    code = ("import runpy, sys, bench.report, bench.report.__main__, bench.report.notebook, bench.report.page; "
            "runpy.run_path(bench.report.notebook.TEMPLATE); sys.exit('torch' in sys.modules)")  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], cwd=finished_sweep, env=environment).returncode == 0


def test_the_papers_numbers_never_stand_in_a_column_of_ours(finished_sweep: Path) -> None:
    comparison = bench.report.open(finished_sweep).paper()
    assert {source for source, _ in comparison.columns} == {"model", "paper", "tiny"}
    printed = {result.psnr for result in paper.TABLE_3}
    assert set(comparison["paper", "psnr"]) == printed and not set(comparison["tiny", "psnr"].dropna()) & printed
    assert (
        comparison["model", ""].tolist() == ["FreeSplatter", "Ours1", "Ours2"] == comparison["tiny", "setting"].tolist()
    )


def test_deviations_are_those_of_the_resolved_specs(finished_sweep: Path, tmp_path: Path) -> None:
    differing = bench.report.open(finished_sweep).deviations().set_index("setting")
    assert differing.loc["train.steps", ["paper", "here", "runs"]].tolist() == ["200K steps (§3.2)", "60", "all"]
    assert (
        differing.loc["init.encoder", "runs"] == "Ours1; Ours2"
        and differing.loc["init.encoder", "here"] == "from shipped tiny_surface_points"
    )
    assert differing.loc["hardware", "here"] == "1 × a processor"
    blocks = differing.loc[["model.aggregator.blocks"]]
    assert dict(zip(blocks.paper, blocks.runs, strict=True)) == {
        "24 in FreeSplatter (Table 2)": "FreeSplatter",
        "12 in Ours1 (Table 2)": "Ours1",
        "12 in Ours2 (Table 2)": "Ours2",
    }
    open_ = deviations.unspecified_by_paper(bench.report.open(finished_sweep).records).set_index("setting")
    assert open_.loc["model.output.color_residual", ["base", "here"]].tolist() == ["no", "yes"]
    assert not {"train.steps", "model.encoder.patch", "seed"} & set(open_.index)

    at_paper_scale = bench.report.open(record_sweep(tmp_path, scale="paper")[0])
    assert at_paper_scale.deviations().setting.tolist() == ["hardware"]
    assert len(deviations.matched_settings(at_paper_scale.records)) == len(paper.RECIPE)
    assert deviations.unspecified_by_paper(at_paper_scale.records).empty


@pytest.mark.parametrize(
    ("init", "deviation"),
    [({"init.encoder": "scratch"}, ["init.encoder", "from scratch"]), ({"init.encoder": "mast3r.pth"}, []),
     ({"init.encoder": "run pretraining"}, ["init.encoder", "from run pretraining"]),
     ({"init.encoder": "shipped small"}, ["init.encoder", "from shipped small"]),
     ({"init.encoder": "scratch", "init.model": "whole.pth"}, ["init.model", "from whole.pth"])],
)  # fmt: skip
def test_an_initialization_that_is_not_the_papers_is_a_deviation(init: dict[str, str], deviation: list[str]) -> None:
    fields = {"model.encoder.name": "croco", **init}
    rows = [[row.setting, row.here] for row in deviations.initialization(fields, paper.TABLE_2[1])]
    assert rows == ([deviation] if deviation else [])


@pytest.mark.parametrize(
    ("encoder", "aggregator", "head", "model"),
    [("conv", "self_attention", "linear", "FreeSplatter"), ("croco", "self_attention", "dpt", "Ours2"),
     ("conv", "self_attention", "dpt", None), ("croco", "cross_attention", "linear", None)],
)  # fmt: skip
def test_a_model_of_the_paper_has_its_parts(encoder: str, aggregator: str, head: str, model: str | None) -> None:
    parts = zip(("encoder", "aggregator", "head"), (encoder, aggregator, head), strict=True)
    paper_model = deviations.model_of({f"model.{part}.name": name for part, name in parts})
    assert (paper_model.model if paper_model else None) == model


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
    assert "All 9 runs are done" in " ".join(text["question"].split()) and "This is a summary" in text["question"]
    assert "per_image_white@1" in text["results"] and "baseline" in text["results"]
    assert all("data:image/" in text[name] for name in ("drawings", "loss_curves", "qualitative", "comparison"))
    assert "A summary records only some" in text["paper"] and "None: every run is done" in text["failures"]


def test_what_is_missing_or_out_of_date_is_written_again(sweep_copy: Path) -> None:
    written = {path: path.stat().st_mtime_ns for path in sweep_copy.rglob("*.*") if path.suffix in (".png", ".md")}
    assert {path.name for path in written} == {"loss_curves.png", "qualitative.png", "comparison.png", "table.md",
                                               "answers.md"}  # fmt: skip
    bench.report.refresh(bench.report.open(sweep_copy))
    assert all(path.stat().st_mtime_ns == time for path, time in written.items())
    (ours1,) = (r.folder for r in bench.report.open(sweep_copy).records.runs if r.label == "Ours1, seed 0")
    with (ours1.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 12, "step_time_ms": 10.0, "loss/points": 9.0}\n')
    bench.report.refresh(bench.report.open(sweep_copy))
    assert all(path.stat().st_mtime_ns > time for path, time in written.items() if path.suffix == ".png")


def test_tables_that_are_missing_or_hold_something_else_are_written_again(sweep_copy: Path) -> None:
    before = {path: path.read_bytes() for path in (sweep_copy / "tables").iterdir()}
    assert {path.name for path in before} == {f"{s}.{f}" for s in ("table", "answers") for f in ("csv", "md", "tex")}
    for path in before:
        path.unlink() if path.name.startswith("answers") else path.write_text("of earlier records")
    bench.report.refresh(bench.report.open(sweep_copy))
    assert {path: path.read_bytes() for path in (sweep_copy / "tables").iterdir()} == before
    write_json(sweep_copy / "sweep.json", read_json(sweep_copy / "sweep.json") | {"reference": "Ours1"})
    bench.report.refresh(bench.report.open(sweep_copy))
    assert "Differences from Ours1" in (sweep_copy / "tables" / "answers.md").read_text()


def test_the_specs_text_and_the_codes_differences_stand_in_the_report(sweep_copy: Path) -> None:
    texts = {"sources": {"ablations/table3.yaml": "base: <ours1>\n"}, "code_diff": "--- a/x.py\n+++ b/x.py\n"}
    write_json(sweep_copy / "sweep.json", read_json(sweep_copy / "sweep.json") | texts)
    html = bench.report.open(sweep_copy).show("reproduce").html
    for part in ("ablations/table3.yaml, as it was run", "base: &lt;ours1&gt;", "code.diff", "+++ b/x.py"):
        assert part in html, part


def test_captions_stand_outside_of_the_boxes_that_scroll(finished_sweep: Path) -> None:
    """A table may be wider than the page; what it shows must not be clipped with it."""
    sweep = bench.report.open(finished_sweep)
    for section in ("answers", "results"):
        caption, box, table = sweep.show(section).html.partition('<div class="ead-scroll">')
        assert box and " at scale tiny; protocol per_image_white@1; " in caption and "at scale tiny" not in table


def test_a_folder_that_is_no_sweep_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from bench.report.__main__ import main

    with pytest.raises(UserError, match=r"no sweep\.json"):
        main([str(tmp_path)])


def test_runs_elsewhere_are_named_in_the_notebook(tmp_path: Path) -> None:
    from bench.report.notebook import unexecuted_notebook

    source: Any = unexecuted_notebook(tmp_path / "a" / "sweep", tmp_path / "runs_here").cells[1].source
    assert "open('.', results='../../runs_here')" in source.replace('"', "'")


def test_the_command_to_reproduce_keeps_the_name_of_the_folder(sweep_copy: Path) -> None:
    write_json(sweep_copy / "sweep.json", read_json(sweep_copy / "sweep.json") | {"folder_name": "mine"})
    assert "--name mine" in bench.report.open(sweep_copy).show("reproduce").html
