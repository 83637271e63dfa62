"""Tables of a sweep: means over seeds, marks, empty cells, notes, formats."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.paths import ROOT
from support.sweeps import BASELINES, NASTY, PROTOCOL, evaluation, profile, record_sweep

from bench.analysis import paper, tables
from bench.analysis.formatting import millions, read_markdown
from bench.common.json_files import read_json, read_lines, write_json
from bench.runs.folder import RunFolder, run_folder, write_sweep


def run_of(sweep: Path, label: str) -> RunFolder:
    (run_id,) = (line["id"] for line in read_lines(sweep / "runs.jsonl") if line["label"] == label)
    return run_folder(sweep.parent, run_id)


def rewrite(sweep: Path) -> tuple[pd.DataFrame, str]:
    """(table.csv by label, table.md) of a sweep that was changed."""
    written = {path.name: path for path in tables.write(sweep, sweep.parent)}
    return pd.read_csv(written["table.csv"]).set_index("label"), written["table.md"].read_text()


def test_table_averages_seeds_marks_baselines_and_leaves_missing_cells_empty(finished_sweep: Path) -> None:
    table = pd.read_csv(finished_sweep / "tables" / "table.csv").set_index("label")
    assert list(table.index) == ["FreeSplatter", "Ours1", "Ours2", *(label for label, *_ in BASELINES.values())]
    assert table.psnr["FreeSplatter"] == pytest.approx(18.2) and table.seeds["FreeSplatter"] == 2
    assert table.psnr_sd["FreeSplatter"] == pytest.approx(np.std([18.0, 18.4], ddof=1))
    assert pd.isna(table.psnr["Ours2"]) and pd.isna(table["measured/step_time_ms"]["Ours2"])
    assert table.status["Ours2"] == "1 failed, 1 planned" and table.status["Ours1"] == "done"
    assert table.parameters_total["Ours1"] == 307_941_824 and table.parameters_total["Ours2"] < 10**7
    assert table.not_beaten["FreeSplatter"] == "nearest input view (PSNR); mean of the inputs (FG PSNR)"
    assert pd.isna(table.not_beaten["Ours1"])  # the oracle is no baseline to beat
    assert table.kind.tolist() == ["run"] * 3 + ["baseline"] * 3 + ["oracle"]


def test_markdown_has_scale_protocol_data_commit_and_what_tiny_is_evidence_for(finished_sweep: Path) -> None:
    text = (finished_sweep / "tables" / "table.md").read_text()
    table = read_markdown(text)
    notes = "\n".join(table.remarks)
    for part in ("scale tiny", "per_image_white@1", "16 evaluation scenes of procedural 1", "0123456789ab"):
        assert part in table.title, part
    for part in ("do not carry over to the paper's scale", "lpips_vgg is missing", "Ours2: 1 failed, 1 planned",
                 "not above nearest input view (PSNR)", "Asked for 32 evaluation scenes, there are 16."):  # fmt: skip
        assert part in notes, part
    rows = table.cells.set_index("").to_dict("index")
    assert rows["FreeSplatter †"]["PSNR ↑"] == "18.20 ± 0.28" and rows["Ours1"]["Params."] == "307M"
    assert [cell for cell in rows["Ours2"].values() if cell] == ["2.9M", "108.3", "1 failed, 1 planned"]
    assert "flat mean color in the true mask (oracle)" in rows
    assert all(any(column) for _, column in table.cells.items())  # GPU memory is none of these
    assert "measured/reserved_peak_memory_gib" in pd.read_csv(finished_sweep / "tables" / "table.csv")


def test_an_oracle_above_all_runs_is_explained_once(finished_sweep: Path, sweep_copy: Path) -> None:
    sentence = "exceeds every model here because it is given each target view's true mask"
    assert (finished_sweep / "tables" / "table.md").read_text().count(sentence) == 1
    write_json(run_of(sweep_copy, "Ours1, seed 0").path / "evals" / f"{PROTOCOL.key}.json", evaluation(40.0, 30.0))
    assert sentence not in rewrite(sweep_copy)[1]


def test_waiting_for_data_and_broken_scenes_are_noted(sweep_copy: Path) -> None:
    run = run_of(sweep_copy, "Ours1, seed 0").path
    write_json(run / "train.json", {"data_wait_share": 0.0123})
    write_json(run / "scenes.json", {"broken": [{"scene": "0/1"}, {"scene": "0/2"}]})
    path = run / "evals" / f"{PROTOCOL.key}.json"
    write_json(path, json.loads(path.read_text()) | {"broken": [{"scene": "7/7"}]})
    table, text = rewrite(sweep_copy)
    assert table["measured/data_wait_share"]["Ours1"] == 0.0123 and pd.isna(table["measured/data_wait_share"]["Ours2"])
    assert "Waiting for data took 1.2% of the training steps' time at most" in text
    assert "Skipped as broken in training: 2 scenes" in text and "Skipped as broken in evaluation: 1 scenes" in text


def test_changed_code_and_other_scenes_are_noted(sweep_copy: Path) -> None:
    lines = read_lines(sweep_copy / "runs.jsonl")
    lines[0]["changed_code"] = ["models/encoders/conv.py"]
    write_sweep(sweep_copy, read_json(sweep_copy / "sweep.json"), lines, read_json(sweep_copy / "environment.json"))
    path = run_of(sweep_copy, "Ours1, seed 1").path / "evals" / f"{PROTOCOL.key}.json"
    write_json(path, evaluation(19.0, 15.0, scenes=1))
    notes = "\n".join(read_markdown(rewrite(sweep_copy)[1]).remarks)
    assert "Changed since FreeSplatter, seed 0 was trained: models/encoders/conv.py." in notes
    assert "Asked for 32 evaluation scenes, there is 1 (Ours1, seed 1)." in notes
    assert "do not compare: 16 scenes (FreeSplatter, seed 0, FreeSplatter, seed 1, Ours1, seed 0); 1 scenes" in notes


def test_load_average_stands_beside_step_times(finished_sweep: Path, sweep_copy: Path) -> None:
    assert "batch 16; load average 0.5." in (finished_sweep / "tables" / "table.md").read_text()
    busy = profile(200.0) | {"load_average": 7.25, "provenance": {"cores": 2}}
    write_json(run_of(sweep_copy, "Ours1, seed 0").path / "profiles" / "cpu-1.json", busy)
    assert "load average 0.5 to 7.2 on 2 cores: other work slowed the steps" in rewrite(sweep_copy)[1]


def test_measured_columns_are_set_apart(finished_sweep: Path, sweep_copy: Path) -> None:
    before = pd.read_csv(finished_sweep / "tables" / "table.csv").set_index("label")
    write_json(run_of(sweep_copy, "Ours1, seed 0").path / "profiles" / "cpu-1.json", profile(999.0))
    after, _ = rewrite(sweep_copy)
    measured = [name for name in before if name.startswith("measured/")]
    assert "measured/step_time_ms" in measured and not before[measured].equals(after[measured])
    pd.testing.assert_frame_equal(before.drop(columns=measured), after.drop(columns=measured))


def test_a_sweep_without_results_still_has_a_table(sweep_copy: Path) -> None:
    for path in sweep_copy.parent.glob("runs/*/evals/*.json"):
        path.unlink()
    table, _ = rewrite(sweep_copy)
    assert table.index.tolist() == ["FreeSplatter", "Ours1", "Ours2"] and "psnr" not in table


@pytest.mark.parametrize("label", ["L1|L2 loss", "提案手法", "$x$ [y] *z*", NASTY, r"a\|b"])
def test_any_label_survives_markdown(sweep_copy: Path, label: str) -> None:
    lines = [line | {"label": label} for line in read_lines(sweep_copy / "runs.jsonl")[:1]]
    write_sweep(sweep_copy, read_json(sweep_copy / "sweep.json") | {"reference": None}, lines, {})
    table = read_markdown(rewrite(sweep_copy)[1])
    assert table.cells.iloc[0, 0] == f"{label} †" and table.cells.shape[1] == 10


def test_terminal_summary_has_the_answer_first(finished_sweep: Path) -> None:
    text = tables.terminal_summary(finished_sweep, finished_sweep.parent)
    assert text.startswith("Differences from FreeSplatter") and "per_image_white@1" in text
    assert text.index("decided") < text.index("nearest input view")


@pytest.mark.parametrize(
    ("count", "text"),
    [(307_941_824, "307M"), (475_718_231, "475M"), (2_499_999, "2.4M"), (99_999, "99k"), (None, "")],
)
def test_parameters_are_truncated_as_the_paper_prints_them(count: int | None, text: str) -> None:
    assert millions(count) == text
    if count and count > 10**8:
        assert int(text[:-1]) in {result.parameters_millions for result in paper.TABLE_3}


def test_an_encoder_that_resizes_is_marked_as_not_comparable(tmp_path: Path) -> None:
    sweep, _ = record_sweep(tmp_path, ROOT / "ablations" / "encoder.yaml", scale="paper")
    notes = [note for note in rewrite(sweep)[1].splitlines() if "does not compare" in note]
    assert len(notes) == 1 and "pretrained DINOv2: E resizes its images to 14/16 of their side" in notes[0]


def test_what_a_shipped_encoder_cost_is_a_column(sweep_copy: Path) -> None:
    """By its card; and only where a run starts from something."""
    table, text = rewrite(sweep_copy)
    facts = read_json(ROOT / "models" / "pretrained" / "tiny_surface_points.json")["facts"]
    expected = 3 * facts["forward_gflop"] * facts["batch"] * facts["steps"] / 1000
    assert table.pretraining_tflop["Ours1"] == table.pretraining_tflop["Ours2"] == pytest.approx(expected)
    assert pd.isna(table.pretraining_tflop["FreeSplatter"])
    cells = read_markdown(text).cells.set_index("")["Pretraining [TFLOP]"]
    assert (cells["Ours1"], cells["FreeSplatter †"]) == (f"{expected:.1f}", "")
    assert sum(note.startswith("Pretraining [TFLOP]: ") for note in read_markdown(text).definitions) == 1


GRAPH = """base: freesplatter
set: {train: {steps: 50, warmup_steps: 5, batch: 8}}
runs:
  - {name: first}
  - {name: second, init: {encoder: {run: first}, aggregator: {run: first}}}
  - {name: third, init: {encoder: {run: second}, head: {run: first}}, train.steps: 60}
  - {name: given, init: {encoder: {run: first}, head: {weights: runs/mine}}}
"""


def test_pretraining_counts_each_run_of_the_chain_once(tmp_path: Path) -> None:
    path = tmp_path / "graph.yaml"
    path.write_text(GRAPH)
    folder, runs = record_sweep(tmp_path, path)
    assert "pretraining_tflop" not in rewrite(folder)[0]  # nothing is profiled, so nothing is known
    for run, gflop in zip(runs, (2.0, 4.0, 8.0, 16.0), strict=True):
        write_json(tmp_path / "runs" / run.id / "profiles" / "cpu-1.json", profile(1.0) | {"forward_gflop": gflop})
    table = rewrite(folder)[0].pretraining_tflop
    assert pd.isna(table["first"]) and pd.isna(table["given"])  # nothing says what its head took
    assert table["second"] == pytest.approx(3 * 2.0 * 8 * 50 / 1000)
    assert table["third"] == pytest.approx(3 * (2.0 + 4.0) * 8 * 50 / 1000)
