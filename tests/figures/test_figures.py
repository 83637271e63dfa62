"""Figures of a sweep: drawn from what its runs hold, reproducibly, whatever their labels."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from support.paths import ROOT
from support.sweeps import record_sweep

from bench import figures
from bench.analysis.sweep_results import read_sweep
from bench.common.json_files import read_json, read_lines
from bench.figures import comparison, loss_curves, qualitative, series, style
from bench.runs.folder import write_sweep

PLAIN = [kind for kind in figures.KINDS if kind != "model"]


def test_figures_are_drawn_from_the_records_and_reproducibly(finished_sweep: Path, sweep_copy: Path) -> None:
    names = {path.name for path in (finished_sweep / "figures").iterdir()}
    diagrams = {f"model_{name}.svg" for name in ("FreeSplatter", "Ours1", "Ours2")}
    assert names == {"loss_curves.png", "loss_curves.svg", "qualitative.png", "comparison.png"} | diagrams
    written = figures.write(sweep_copy, sweep_copy.parent, PLAIN)
    assert all(path.read_bytes()[:4] in (b"\x89PNG", b"<?xm") for path in written)
    assert all(path.read_bytes() == (finished_sweep / "figures" / path.name).read_bytes() for path in written)


def test_labels_of_any_script_are_drawn_and_missing_glyphs_are_logged_once(
    sweep_copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = {"FreeSplatter": "$x$ L1|L2 100 %", "Ours1": "\U00013000 提案手法", "Ours2": r"\alpha$"}
    lines = read_lines(sweep_copy / "runs.jsonl")
    for line in lines:
        label, _, seed = line["label"].partition(", seed ")
        line["label"] = f"{names[label]}, seed {seed}"
    write_sweep(sweep_copy, read_json(sweep_copy / "sweep.json"), lines, {})
    with caplog.at_level(logging.WARNING, logger="bench.figures"):
        figures.write(sweep_copy, sweep_copy.parent, PLAIN)
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("bench.figures")]
    assert len(messages) == 1 and "\U00013000" in messages[0] and "no installed font" in messages[0]


def test_long_labels_leave_room_for_the_panels() -> None:
    label = ", ".join(f"field number {i} with a value" for i in range(12))
    panel = comparison.Panel("PSNR", "higher", {label: [1.0, 2.0]})
    with style.style():
        figure = comparison.draw([panel] * 4, [label])
        figure.canvas.draw()
        assert all(axes.get_position().width > 0.1 for axes in figure.axes)


def test_headings_of_pictures_are_no_wider_than_their_columns(finished_sweep: Path) -> None:
    (path, *_) = finished_sweep.parent.glob("runs/*/samples/evaluation.npz")
    with np.load(path) as arrays, style.style():
        figure = qualitative.draw({label: dict(arrays) for label in ("x" * 60, "W" * 20, "patch 4, 2 blocks")})
        boxes = [text.get_window_extent() for text in figure.texts]
    assert len(boxes) == 9
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i]), figure.texts[i].get_text()


def test_short_headings_are_horizontal_in_a_smaller_font(finished_sweep: Path) -> None:
    (path, *_) = finished_sweep.parent.glob("runs/*/samples/evaluation.npz")
    with np.load(path) as arrays, style.style():
        figure = qualitative.draw({label: dict(arrays) for label in ("FreeSplatter", "Ours1", "Ours2")})
        assert {text.get_rotation() for text in figure.texts} == {0.0}
        assert len({text.get_fontsize() for text in figure.texts}) == 1
        assert "FreeSplatter" in [text.get_text() for text in figure.texts]


PRETRAINING = (
    "FreeSplatter", "ViT from scratch", "pointmaps, rate 0.1", "surface points, rate 0.1", "convolution", "CNN"
)  # fmt: skip
MEMORY = ("paper regime", "micro-batches", "target views in turn", "input views of D in turn", "blocks of E recomputed")


@pytest.mark.parametrize("labels", [PRETRAINING, (*MEMORY, "blocks of A recomputed")], ids=["renderings", "depths"])
def test_no_word_of_a_heading_is_broken_where_it_can_be_turned(finished_sweep: Path, labels: tuple[str, ...]) -> None:
    (path, *_) = finished_sweep.parent.glob("runs/*/samples/evaluation.npz")
    with np.load(path) as arrays, style.style():
        figure = qualitative.draw({label: dict(arrays) for label in labels})
        words = [" ".join(text.get_text().split()) for text in figure.texts]
        boxes = [text.get_window_extent() for text in figure.texts]
    assert set(labels) <= set(words) and {f"{label}: depth" for label in labels} <= set(words)
    height = figure.bbox.height
    for i, box in enumerate(boxes):
        assert box.y1 <= height + 1 and not any(box.overlaps(other) for other in boxes[:i]), words[i]


@pytest.mark.parametrize(("values", "scale"), [((0.5, 0.2), "log"), ((0.5, -0.2), "linear")])
def test_a_term_that_falls_below_zero_has_a_linear_axis(values: tuple[float, float], scale: str) -> None:
    records = [{"step": step, "loss/confidence_points": value} for step, value in enumerate(values, 1)]
    with style.style():
        (axes,) = loss_curves.draw({"model": [records]}).axes
        assert axes.get_yscale() == scale


def test_two_labels_never_share_a_diagram() -> None:
    assert figures.diagram_name("patch 4, 2 blocks") == "model_patch_4__2_blocks.svg"
    labels = ["a/b", "a_b", "a b", "提案手法", "従来手法", "x" * 300, "x" * 301]
    assert len({figures.diagram_name(label) for label in labels}) == len(labels)


def test_loss_curves_shade_the_steps_before_rendering() -> None:
    records = [{"step": s, "loss/points": 1.0} | ({"loss/mse": 0.5} if s > 4 else {}) for s in range(1, 12)]
    assert loss_curves.points_only_steps(records) == 4
    with style.style():
        figure = loss_curves.draw({"a": [records, records], "b": [records]})
        assert [axes.get_title().split("  ")[1] for axes in figure.axes] == ["mean squared error", "point error"]
        assert all(axes.get_yscale() == "log" for axes in figure.axes)
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", r"$\mathcal{L}_{3D}$ alone"]
        assert not any(axes.texts for axes in figure.axes)


def test_many_loss_curves_leave_room_for_the_panels() -> None:
    records = [{"step": s, "loss/points": 1.0, "loss/mse": 0.5} for s in range(1, 12)]
    with style.style():
        figure = loss_curves.draw({f"a setting with a long name, number {i}": [records] for i in range(25)})
        figure.canvas.draw()
        assert all(axes.get_position().height * figure.get_figheight() > 1.3 for axes in figure.axes)


def test_settings_of_one_base_share_a_color_and_one_change_a_line(tmp_path: Path) -> None:
    folder, _ = record_sweep(tmp_path, ROOT / "ablations" / "equal_time.yaml")
    looks = series.of_sweep(read_sweep(folder, tmp_path))
    colors = {label: looks[label].color for label in ("FreeSplatter", "Ours1", "Ours2")}
    assert len(set(colors.values())) == 3
    for label, look in looks.items():
        model, _, variant = label.partition(", ")
        assert (look.model, look.variant, look.color) == (model, variant, colors[model])
        assert look.line == {"": "-", "former recipe": "--", "equal time": "-."}[variant]
    names = [handle.get_label() for handle in series.handles(looks)]
    assert names == ["FreeSplatter", "Ours1", "Ours2", "equal time", "former recipe"]


def test_a_model_as_it_is_has_the_solid_line(tmp_path: Path) -> None:
    """Though another variant is more common."""
    runs = [("A", "freesplatter", 1), ("A, x", "freesplatter", 2), ("B, x", "ours1", 2), ("B, y", "ours1", 3)]
    lines = [f'  - {{name: "{name}", base: {base}, train.batch: {batch}}}' for name, base, batch in runs]
    (tmp_path / "question.yaml").write_text("# Which?\nruns:\n" + "\n".join(lines) + "\n")
    folder, _ = record_sweep(tmp_path, tmp_path / "question.yaml")
    looks = series.of_sweep(read_sweep(folder, tmp_path))
    assert [look.line for look in looks.values()] == ["-", "--", "--", "-."]


@pytest.mark.parametrize("name", ["table3", "patch_size", "recipe"])  # a setting a base, one base, too many changes
def test_other_settings_have_colors_of_their_own(tmp_path: Path, name: str) -> None:
    folder, _ = record_sweep(tmp_path, ROOT / "ablations" / f"{name}.yaml")
    looks = series.of_sweep(read_sweep(folder, tmp_path))
    assert len({(look.color, look.line) for look in looks.values()}) == len(looks)
    assert [handle.get_label() for handle in series.handles(looks)] == list(looks)


def test_a_comparison_has_a_panel_a_quantity_and_labels_as_text() -> None:
    panel = comparison.Panel("PSNR", "higher", {"$a$": [1.0, 2.0]}, [("white", 0.5, False)])
    with style.style():
        figure = comparison.draw([panel, panel], ["$a$"])
        assert len(figure.axes) == 2 and figure.axes[0].get_title() == "PSNR ↑"
        assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [r"\$a\$"]


def test_model_diagram_draws_a_stripe_a_block_and_every_tap() -> None:
    from bench.figures import model_diagram
    from models.aggregators import self_attention
    from models.ead import EADSpec
    from models.encoders import croco
    from models.heads import dpt
    from models.outputs import gaussians

    spec = EADSpec(croco.Spec(), self_attention.Spec(blocks=12), dpt.Spec(), gaussians.Spec())
    with style.style():
        figure = model_diagram.draw(spec, 4, {"encoder": 303_098_880, "aggregator": 152_071_168, "head": 20_548_183})
        texts = " ".join(text.get_text() for text in figure.axes[0].texts)
    stripes = [patch for patch in figure.axes[0].patches if patch.get_facecolor() == (1.0, 1.0, 1.0, 1.0)]
    assert len(stripes) == 12
    for part in ("croco", "self attention", "dpt", "16 × 16 × 1024", "1,024 tokens a scene", "256 × 256 × 23", "303.1M",
                 " 0 6 9 12 "):  # fmt: skip
        assert part in texts, part
