"""`train.compile`: steps are compiled, and nothing else that is done with the model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT, TESTS

PROGRAM = """
import json, sys
from functools import partialmethod
from pathlib import Path
import torch
from support.training import batch_of, run, spec
from bench.profiling import flops, inference
from bench.training import diagnostics, preview
from bench.training.trainer import Trainer

compiled = []

def backend(graph, inputs):  # in place of inductor, which takes long
    compiled.append(graph)
    return graph.forward

torch.nn.Module.compile = partialmethod(torch.nn.Module.compile, backend=backend)
preview.FIRST_STEPS = 1
changes = dict(steps=3, compile=True, geometry_first=0.0)
of, folder, found = spec(**changes), Path(sys.argv[1]), {}

trainer, batch = Trainer(of, torch.device("cpu")), batch_of(of, 0)
trainer.step(0, batch)
found["of a step"] = len(compiled)
found["gflop"] = [flops.forward_gflop(model, batch.inputs) for model in (trainer.model, of.model.build(0))]
inference.measure_inference(trainer.model, batch)
next(trainer.model.head.parameters()).data.fill_(float("nan"))
found["culprit"] = diagnostics.first_nonfinite_module(trainer.model, batch)
found["of all else"] = len(compiled) - found["of a step"]

torch.compiler.reset()
compiled.clear()
result = run(folder, spec(**changes, keep="best", validations=3))
found["of a training"] = len(compiled)
found["validated"] = "validation_psnr" in result.metrics()[0] and (result.path / preview.FILE).is_file()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """From a process of its own: the shape hook of the tests is no part of what is compiled."""
    folder: Path = tmp_path_factory.mktemp("compiled") / "run"
    command = [sys.executable, "-c", PROGRAM, folder]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{TESTS}"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout))


def test_validation_and_preview_compile_nothing(found: dict[str, Any]) -> None:
    assert found["validated"] and found["of a training"] == found["of a step"] > 0


def test_measurements_and_diagnostics_are_of_the_model_as_it_is_kept(found: dict[str, Any]) -> None:
    assert found["of all else"] == 0 and found["culprit"] == "the head's weights"
    assert found["gflop"][0] == found["gflop"][1] > 0
