"""The figure against the number of views, and the sheet of pictures of a sweep whose models see different views."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.paths import ROOT
from support.sweeps import PROTOCOL, evaluation, record_sweep, write_run

import bench.report
from bench import figures
from bench.analysis import tables
from bench.analysis.sweep_results import read_sweep
from bench.analysis.variants import series_over
from bench.common.json_files import write_json
from bench.figures import number_of_views, qualitative, series, style
from bench.runs.folder import RunFolder
from bench.runs.states import State

MODELS = ("self-attention", "alternating", "latents")


@pytest.fixture(scope="module")
def sweep_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("results")
    folder, runs = record_sweep(results, ROOT / "ablations" / "aggregator.yaml")
    for i, run in enumerate(runs):
        target = RunFolder(results / "runs" / run.id)
        write_run(target, run, State.DONE, 14.0 + i, 10.0, 100.0 * (i + 1))
        path = target.path / "samples" / "evaluation.npz"
        arrays = dict(np.load(path))
        np.savez_compressed(path, **arrays | {"inputs": arrays["inputs"][:, : min(4, run.spec.views.inputs)]})
    record_sweep(results, ROOT / "ablations" / "aggregator.yaml")
    return folder


def test_models_that_differ_in_views_alone_are_one_line(sweep_folder: Path) -> None:
    over_views = series_over(read_sweep(sweep_folder, sweep_folder.parent), "views.inputs")
    assert tuple(over_views) == MODELS
    assert over_views["latents"] == {2: "latents, 2 inputs", 4: "latents, 4 inputs", 8: "latents, 8 inputs"}


def test_quality_time_and_memory_have_a_panel_each(sweep_folder: Path) -> None:
    written = figures.write(sweep_folder, sweep_folder.parent, ["number_of_views"])
    assert {path.name for path in written} == {"number_of_views.png", "number_of_views.svg"}
    panel = number_of_views.Panel("PSNR", {"a": {2: [14.0, 15.0], 4: [16.0]}, "$b$": {8: [17.0]}})
    with style.style():
        figure = number_of_views.draw([panel, panel], {"a": "red", "$b$": "blue"})
        assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["2", "4", "8"]
        assert {text.get_text() for text in figure.legends[0].get_texts()} == {"a", r"\$b\$"}


def test_a_model_has_its_color_in_every_figure_and_each_number_of_views_a_line(sweep_folder: Path) -> None:
    looks = series.of_sweep(read_sweep(sweep_folder, sweep_folder.parent))
    by_model = {f"{model}, {n} inputs": (model, f"{n} inputs") for model in MODELS for n in (2, 4, 8)}
    assert {label: (look.model, look.variant) for label, look in looks.items()} == by_model
    assert len({look.color for look in looks.values()}) == len({look.line for look in looks.values()}) == 3
    figures.write(sweep_folder, sweep_folder.parent, ["number_of_views", "loss_curves"])
    names = ("number_of_views.svg", "loss_curves.svg")
    drawn = [set(re.findall(r"stroke: (#\w{6})", (sweep_folder / "figures" / name).read_text())) for name in names]
    assert [{color.lower() for color in style.PALETTE} & colors for colors in drawn] == [
        {look.color.lower() for look in looks.values()}
    ] * 2


@pytest.fixture(scope="module")
def evaluated_with_several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """table3's three models, two of them evaluated with 2 and 8 views beside the 4 of their training."""
    results = tmp_path_factory.mktemp("results")
    folder, runs = record_sweep(results, overrides=["seeds=[0]"])
    for i, run in enumerate(runs):
        target = RunFolder(results / "runs" / run.id)
        write_run(target, run, State.DONE, 14.0 + i, 10.0, 100.0)
        for number in (2, 8) if i < 2 else ():
            result = evaluation(12.0 + i + number / 4, 10.0)
            result["views"] = {"evaluation/0": {"inputs": list(range(number)), "targets": [1, 2, 3, 4]}}
            result["baselines"]["mean"]["means"]["psnr"] = 15.0 + number / 10
            write_json(target.path / "evals" / f"{PROTOCOL.key_of(number)}.json", result)
    record_sweep(results, overrides=["seeds=[0]"])
    return folder


def test_a_model_evaluated_with_several_numbers_is_a_line(
    evaluated_with_several: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over all evaluated numbers, the trained one among them, with the baseline of each number; none without pixels."""
    drawn: list[number_of_views.Panel] = []
    draw = number_of_views.draw
    monkeypatch.setattr(number_of_views, "draw", lambda panels, colors: drawn.extend(panels) or draw(panels, colors))
    figures.write(evaluated_with_several, evaluated_with_several.parent, ["number_of_views"])
    psnr = next(panel for panel in drawn if panel.title == "PSNR [dB] ↑")
    assert psnr.values == {
        "FreeSplatter": {2: [12.5], 4: [14.0], 8: [14.0]},
        "Ours1": {2: [13.5], 4: [15.0], 8: [15.0]},
    }
    assert psnr.trained == {"FreeSplatter": 4, "Ours1": 4}
    assert psnr.baseline == ("mean of the inputs", {2: 15.2, 4: 18.1, 8: 15.8})


def test_the_report_of_a_summary_shows_the_table_of_views(evaluated_with_several: Path, tmp_path: Path) -> None:
    results = evaluated_with_several.parent
    tables.write(evaluated_with_several, results)
    shutil.copytree(evaluated_with_several, tmp_path / "summary")
    for folder in (evaluated_with_several, tmp_path / "summary"):
        sweep = bench.report.open(folder)
        table = sweep.number_of_views()
        assert table is not None and list(table.cells["N"]) == ["2", "4", "8"] * 2
        assert table.cells["Trivial baseline"][0] == "NOT beaten: mean of the inputs, PSNR 15.20"
        html = str(sweep.show("systematization")._repr_html_())
        assert "Quality against the number of input views" in html


def test_a_summary_with_table_1_shows_its_results() -> None:
    """Table 1 has no status: it is no result table."""
    sweep = bench.report.open(ROOT / "results" / "published" / "table1_tiny")
    assert [table.cells.columns[-1] for table in sweep.result_tables()] == ["Status"]
    assert "Table 1 of the paper" in str(sweep.show("systematization")._repr_html_())


def test_a_sweep_of_one_number_of_views_has_no_such_figure(finished_sweep: Path) -> None:
    assert not (finished_sweep / "figures" / "number_of_views.png").exists()


def test_pictures_are_of_the_most_settings_with_equal_views(
    sweep_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six settings show four inputs, three show two."""
    drawn: list[list[str]] = []
    draw = qualitative.draw
    monkeypatch.setattr(qualitative, "draw", lambda samples: drawn.append(list(samples)) or draw(samples))
    figures.write(sweep_folder, sweep_folder.parent, ["qualitative"])
    (labels,) = drawn
    assert len(labels) == 6 and not any("2 inputs" in label for label in labels)
