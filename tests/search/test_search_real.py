"""`python -m bench.search` as a user runs it: two trials are trained, evaluated and profiled, then everything is
written that a search leaves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.common.json_files import read_json, read_lines
from bench.config import load
from bench.runs.folder import RunFolder

SPEC = """# Does a smaller patch help?
base: freesplatter
set:
  data: {name: procedural, training_scenes: 16, validation_scenes: 16, evaluation_scenes: 16}
  evaluation.scenes: 2
  model.image_size: 32
  model.encoder.width: 24
  model.aggregator: {name: self_attention, blocks: 1, heads: 2}
  losses.lpips: null
  train: {steps: 4, batch: 2, warmup_steps: 1, geometry_first: 0}
search:
  trials: 2
  sampler: grid
  objectives: [psnr, parameters]
  fields: {model.encoder.patch: [8, 16]}
"""


@pytest.mark.timeout(300)
def test_two_trials_end_in_table_figure_and_specs(tmp_path: Path) -> None:
    spec, results = tmp_path / "question.yaml", tmp_path / "results"
    spec.write_text(SPEC)
    command = [sys.executable, "-m", "bench.search", str(spec), "--results", str(results), "--name", "mine"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    folder = results / "mine"
    rows = [row for row in read_lines(folder / "trials.jsonl") if row["kind"] == "trial"]
    assert len(rows) == 2 and all(set(row["values"]) == {"psnr", "parameters"} for row in rows)
    for row in rows:
        run = RunFolder(results / "runs" / row["id"])
        (evaluation,) = run.evaluations().values()
        assert row["values"]["psnr"] == evaluation["means"]["psnr"] and len(run.metrics()) == 4
    front = set(read_json(folder / "search.json")["front"])
    assert front and front <= {row["id"] for row in read_lines(folder / "trials.jsonl")}
    for name in ("tables/front.md", "tables/front.tex", "tables/table.md", "figures/front.png", "figures/front.svg"):
        assert (folder / name).stat().st_size > 100, name
    assert (folder / "tables" / "front.md").read_text() in done.stdout
    assert {load(path).runs[0].id for path in (folder / "front").glob("*.yaml")} == front
    assert list(folder.glob("report.*")), "no report"
    assert {path.name for path in results.iterdir() if path.is_dir()} == {"mine", "runs"}
