"""torch.compile takes the paper's three models, whole and with gradients."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from support.paths import ROOT

PROGRAM = """
import json, sys
import torch
from bench.config import load
from bench.config.spec_files import BASES
from models.tensors import Views

(run,) = load(BASES / (sys.argv[1] + ".yaml")).runs
model = run.spec.model.build(seed=0)
images = torch.rand(2, 4, 3, 32, 32)
compiled = torch.compile(model, fullgraph=True)

def gradients(forward):
    model.zero_grad()
    gaussians = forward(Views(images))
    (gaussians.means.square().mean() + gaussians.harmonics.mean() + gaussians.opacities.mean()).backward()
    return gaussians.means.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]

(means, plain), (compiled_means, fast) = gradients(model), gradients(compiled)
assert len(plain) == len(fast)
pairs = [(means, compiled_means), *zip(plain, fast)]
print(json.dumps([float((ours - theirs).abs().max()) for ours, theirs in pairs]))
"""


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("model", ["freesplatter", "ours1", "ours2"])
def test_compiled_is_the_model(model: str) -> None:
    """In a process of its own: the shape hook of the tests is no part of what is compiled."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, model], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert max(json.loads(done.stdout)) < 1e-4
