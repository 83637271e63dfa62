"""The figure against the number of views, and the sheet of pictures of a sweep whose models see different views."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.paths import ROOT
from support.sweeps import record_sweep, write_run

from bench import figures
from bench.analysis.sweep_results import read_sweep
from bench.analysis.variants import series_over
from bench.figures import number_of_views, qualitative, style
from bench.runs.folder import RunFolder
from bench.runs.states import State


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
    series = series_over(read_sweep(sweep_folder, sweep_folder.parent), "views.inputs")
    assert list(series) == ["self-attention", "alternating", "latents"]
    assert series["latents"] == {2: "latents, 2 inputs", 4: "latents, 4 inputs", 8: "latents, 8 inputs"}


def test_quality_time_and_memory_have_a_panel_each(sweep_folder: Path) -> None:
    written = figures.write(sweep_folder, sweep_folder.parent, ["number_of_views"])
    assert {path.name for path in written} == {"number_of_views.png", "number_of_views.svg"}
    panel = number_of_views.Panel("PSNR", {"a": {2: [14.0, 15.0], 4: [16.0]}, "$b$": {8: [17.0]}})
    with style.style():
        figure = number_of_views.draw([panel, panel])
        assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["2", "4", "8"]
        assert {text.get_text() for text in figure.legends[0].get_texts()} == {"a", r"\$b\$"}


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
