"""Scale small is for a GPU; its way from the pretraining to both models that start from it is rehearsed on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.paths import ROOT
from support.sweeps import profile

import bench.run
import models
from bench import config
from bench.analysis.formatting import read_markdown
from bench.common.json_files import read_json, write_json
from bench.training import initialization

TABLE3 = ROOT / "ablations" / "table3.yaml"
FEW = (
    "train.steps=2", "train.warmup_steps=1", "train.batch=1", "data.training_scenes=2", "data.validation_scenes=1",
    "data.evaluation_scenes=1", "evaluation.scenes=1", "losses.lpips=null",
)  # fmt: skip


@pytest.mark.long
@pytest.mark.timeout(900)  # a minute on an idle core
def test_table3_at_small_scale_trains_its_encoder_and_starts_from_it(tmp_path: Path) -> None:
    runs = {run.label: run for run in config.load(TABLE3, FEW, "small").runs}
    for run in runs.values():  # else a minute goes into timing steps
        measured = profile(1.0) | {"forward_gflop": 20.0}
        write_json(tmp_path / "runs" / run.id / "profiles" / "cpu-1.json", measured)
    arguments = [str(TABLE3), *FEW, "--scale", "small", "--results", str(tmp_path), "--name", "rehearsal"]
    assert bench.run.main([*arguments, "--device", "cpu", "--threads", "1", "--no-report"]) == 0
    pretrained = models.load(tmp_path / "runs" / runs["surface points"].id).state_dict()
    for label in ("Ours1", "Ours2"):
        assert read_json(tmp_path / "runs" / runs[label].id / "train.json")["steps"] == 2
        start = initialization.build(runs[label].spec, tmp_path / "runs").state_dict()
        encoder = [key for key in start if key.startswith("encoder.")]
        assert encoder and all(torch.equal(start[key], pretrained[key]) for key in encoder)
    table = read_markdown((tmp_path / "rehearsal" / "tables" / "table.md").read_text())
    cells = table.cells.set_index("")["Pretraining [TFLOP]"]
    costs = {label.removesuffix(" †"): cell for label, cell in cells.items()}
    assert costs["Ours1"] == costs["Ours2"] == "0.1"  # 3 × 20 GFLOP × 1 scene × 2 steps
    assert costs["FreeSplatter"] == costs["surface points"] == ""
