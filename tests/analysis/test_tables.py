"""Tables and figures of a sweep whose folders are written here: means over seeds, marks, empty cells, formats."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.sweeps import BASELINES, PROTOCOL, evaluation, profile, samples

from bench import figures
from bench.analysis import paper, tables
from bench.common.json_files import write_json
from bench.runs.folder import RunFolder, Status

RUNS = (  # label, state, PSNR, FG PSNR
    ("FreeSplatter, seed 0", "done", 18.0, 14.1),
    ("FreeSplatter, seed 1", "done", 18.4, 14.2),
    ("Ours1, seed 0", "done", 19.0, 15.0),
    ("Ours2, seed 0", "oom", None, None),
    ("Ours2, seed 1", "planned", None, None),
)


@pytest.fixture
def sweep(tmp_path: Path) -> tuple[Path, Path]:
    """(sweep folder, results) of two finished settings and one that failed."""
    folder = tmp_path / "table3_tiny"
    folder.mkdir()
    write_json(folder / "sweep.json", {"name": "table3", "scale": "tiny", "question": "Which?"})
    write_json(folder / "environment.json", {"commit": "0123456789abcdef"})
    lines = []
    for i, (label, state, psnr, foreground) in enumerate(RUNS):
        run = RunFolder(tmp_path / "runs" / f"{i:012x}")
        run.path.mkdir(parents=True)
        if state != "planned":
            run.set_status(Status(state=state))  # type: ignore[arg-type]
        if psnr is not None and foreground is not None:
            write_json(run.path / "evals" / f"{PROTOCOL.key}.json", evaluation(psnr, foreground))
            write_json(run.path / "profiles" / "cpu-1.json", profile(200.0 + i))
            samples(run.path / "samples", 0.1 * i)
        records = [{"step": s, "loss/points": 1 / s} | ({"loss/mse": 0.1 / s} if s > 4 else {}) for s in range(1, 12)]
        if state != "planned":
            (run.path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        line = {"id": run.id, "label": label, "status": state, "parameters": {"total": 475_718_231}}
        model, _, seed = label.partition(", seed ")
        lines.append(line | {"settings": {"seed": int(seed)}, "spec": {"model": model, "seed": int(seed)}})
    (folder / "runs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder, tmp_path


def test_table_averages_seeds_marks_what_is_not_beaten_and_leaves_missing_cells_empty(sweep: tuple[Path, Path]) -> None:
    written = tables.write(*sweep)
    assert [path.name for path in written] == ["table.csv", "table.md", "table.tex"]
    table = pd.read_csv(written[0]).set_index("label")
    assert list(table.index) == ["FreeSplatter", "Ours1", "Ours2", *(label for label, *_ in BASELINES.values())]
    assert table.psnr["FreeSplatter"] == pytest.approx(18.2) and table.seeds["FreeSplatter"] == 2
    assert table.psnr_sd["FreeSplatter"] == pytest.approx(np.std([18.0, 18.4], ddof=1))
    assert pd.isna(table.psnr["Ours2"]) and pd.isna(table["measured/step_time_ms"]["Ours2"])
    assert table.status["Ours2"] == "1 oom, 1 planned" and table.status["Ours1"] == "done"
    assert table.parameters_total["Ours1"] == 307_941_824 and table.parameters_total["Ours2"] == 475_718_231
    assert table.not_beaten["FreeSplatter"] == "nearest input view (PSNR); mean of the inputs (FG PSNR)"
    assert pd.isna(table.not_beaten["Ours1"])  # the oracle is no baseline to beat
    assert table.kind.tolist() == ["run"] * 3 + ["baseline"] * 3 + ["oracle"]


def test_markdown_says_scale_protocol_data_commit_and_what_tiny_is_evidence_for(sweep: tuple[Path, Path]) -> None:
    text = tables.write(*sweep)[1].read_text()
    for part in ("scale tiny", "per_image_white@1", "2 evaluation scenes of procedural 1", "0123456789ab",
                 "no evidence for claims 1 and 2", "FreeSplatter †", "18.20 ± 0.28", "307M", "475M", "oracle",
                 "lpips_vgg is empty", "Ours2: 1 oom, 1 planned", "not above nearest input view (PSNR)"):  # fmt: skip
        assert part in text, part
    row = next(line for line in text.splitlines() if line.startswith("| Ours2"))
    assert [cell.strip() for cell in row.split("|")[2:-3]] == [""] * 9 + ["475M", "", ""]


def test_waiting_for_data_and_broken_scenes_are_told(sweep: tuple[Path, Path]) -> None:
    run = sweep[1] / "runs" / f"{2:012x}"
    write_json(run / "train.json", {"data_wait_share": 0.0123})
    write_json(run / "scenes.json", {"broken": [{"scene": "0/1"}, {"scene": "0/2"}]})
    path = run / "evals" / f"{PROTOCOL.key}.json"
    write_json(path, json.loads(path.read_text()) | {"broken": [{"scene": "7/7"}]})
    written = tables.write(*sweep)
    table = pd.read_csv(written[0]).set_index("label")
    assert table["measured/data_wait_share"]["Ours1"] == 0.0123 and pd.isna(table["measured/data_wait_share"]["Ours2"])
    text = written[1].read_text()
    assert "Waiting for data took 1.2% of the training steps' time at most" in text
    assert "Skipped as broken in training: 2 scenes" in text and "Skipped as broken in evaluation: 1 scenes" in text


def test_latex_has_no_unescaped_symbols(sweep: tuple[Path, Path]) -> None:
    text = tables.write(*sweep)[2].read_text()
    assert r"\begin{tabular}" in text and r"18.20 $\pm$ 0.28" in text and r"per\_image\_white" in text
    assert text.isascii() or not set(text) & set("±†↑↓−Δμ‖")
    assert "_" not in text.replace(r"\_", "") and "%" not in text.replace(r"\%", "")


def test_measured_columns_are_set_apart(sweep: tuple[Path, Path]) -> None:
    before = pd.read_csv(tables.write(*sweep)[0])
    write_json(sweep[1] / "runs" / f"{2:012x}" / "profiles" / "cpu-1.json", profile(999.0))
    after = pd.read_csv(tables.write(*sweep)[0])
    measured = [name for name in before if name.startswith("measured/")]
    assert "measured/step_time_ms" in measured and not before[measured].equals(after[measured])
    pd.testing.assert_frame_equal(before.drop(columns=measured), after.drop(columns=measured))


def test_a_sweep_with_nothing_finished_still_has_a_table(sweep: tuple[Path, Path]) -> None:
    for path in sweep[1].glob("runs/*/evals/*.json"):
        path.unlink()
    table = pd.read_csv(io.StringIO(tables.write(*sweep)[0].read_text()))
    assert table.label.tolist() == ["FreeSplatter", "Ours1", "Ours2"] and "psnr" not in table


@pytest.mark.parametrize(
    ("count", "text"),
    [(307_941_824, "307M"), (475_718_231, "475M"), (2_499_999, "2.4M"), (99_999, "99k"), (None, "")],
)
def test_parameters_are_truncated_as_the_paper_prints_them(count: int | None, text: str) -> None:
    assert tables.millions(count) == text
    if count and count > 10**8:
        assert int(text[:-1]) in {result.parameters_millions for result in paper.TABLE_3}


def test_tables_do_not_import_torch() -> None:
    code = "import sys, bench.analysis.tables; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_figures_are_drawn_from_what_there_is_and_reproducibly(sweep: tuple[Path, Path]) -> None:
    written = figures.write(*sweep)
    names = {path.name for path in written}
    assert names == {"loss_curves.png", "loss_curves.svg", "qualitative.png", "comparison.png"}
    first = {path.name: path.read_bytes() for path in written}
    assert all(content[:4] in (b"\x89PNG", b"<?xm") for content in first.values())
    assert {path.name: path.read_bytes() for path in figures.write(*sweep)} == first


def test_loss_curves_shade_the_steps_before_rendering() -> None:
    from bench.figures import loss_curves, style

    records = [{"step": s, "loss/points": 1.0} | ({"loss/mse": 0.5} if s > 4 else {}) for s in range(1, 12)]
    assert loss_curves._geometry_first(records) == 4
    with style.style():
        figure = loss_curves.draw({"a": [records, records], "b": [records]})
        assert [axes.get_title().split("  ")[1] for axes in figure.axes] == ["mean squared error", "point error"]
        assert all(axes.get_yscale() == "log" for axes in figure.axes)
        assert {text.get_text() for text in figure.legends[0].get_texts()} == {"a", "b"}


def test_model_diagram_draws_a_stripe_a_block_and_every_tap() -> None:
    from bench.figures import model_diagram, style
    from models.aggregators import self_attention
    from models.ead import EADSpec
    from models.encoders import croco
    from models.heads import dpt
    from models.outputs import gaussians

    spec = EADSpec(croco.Spec(), self_attention.Spec(blocks=12), dpt.Spec(), gaussians.Spec())
    with style.style():
        figure = model_diagram.draw(spec, 4, {"encoder": 303_098_880, "aggregator": 152_071_168, "head": 20_548_183})
        told = " ".join(text.get_text() for text in figure.axes[0].texts)
    stripes = [patch for patch in figure.axes[0].patches if patch.get_facecolor() == (1.0, 1.0, 1.0, 1.0)]
    assert len(stripes) == 12
    for part in ("croco", "self attention", "dpt", "16 × 16 × 1024", "1,024 tokens a scene", "256 × 256 × 23", "303.1M",
                 " 0 6 9 12 "):  # fmt: skip
        assert part in told, part
