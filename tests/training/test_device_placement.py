"""No tensor of a training step lies on the host, shown without a GPU (tests/support/fake_gpu.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from support.base_models import BASES
from support.paths import ROOT, TESTS

from bench.config import load
from models.parts import available

NAMES = sorted(path.stem for path in BASES.glob("*.yaml"))
LATENTS = ("model.aggregator={name: latents, blocks: 2}", "model.output=set_gaussians", "losses.points=null",
           "train.geometry_first=0")  # fmt: skip
CONVOLUTIONS = ("model.encoder=cnn", "model.head=conv_up")
STEPS: dict[str, tuple[str, tuple[str, ...], str]] = {
    **{name: (name, (), "") for name in NAMES},
    "lean": ("ours2", ("train.regime=lean",), ""),
    "latents": ("ours1", LATENTS, ""),
    "convolutions": ("freesplatter", CONVOLUTIONS, ""),
    "head of VGGT": ("vggt", ("model.head=dpt_vggt",), ""),
}
MISPLACED = ("a vector", "a scalar", "an index", "a weight")


@pytest.fixture(scope="module")
def errors() -> dict[str, str | None]:
    """In a process of its own: torch's registry of back ends cannot be undone."""
    cases = {**STEPS, **{misplaced: ("freesplatter", (), misplaced) for misplaced in MISPLACED}}
    command = [sys.executable, "-m", "support.fake_gpu", json.dumps(cases)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{TESTS}"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, str | None] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", STEPS)
def test_the_whole_step_is_on_the_device(name: str, errors: dict[str, str | None]) -> None:
    assert errors[name] is None


@pytest.mark.parametrize("misplaced", MISPLACED)
def test_what_is_left_on_the_host_is_found(misplaced: str, errors: dict[str, str | None]) -> None:
    error = errors[misplaced]
    assert error is not None and error.startswith("AssertionError: "), error
    where = "models/encoders/conv.py:" if misplaced == "a weight" else "tests/support/fake_gpu.py:"
    assert where in error


def test_the_steps_have_every_part_and_loss() -> None:
    """So that a new one is not forgotten here."""
    specs = [load(BASES / f"{base}.yaml", overrides, "tiny").runs[0].spec for base, overrides, _ in STEPS.values()]
    assert {loss for spec in specs for loss in spec.losses} >= set(available("bench.losses"))
    for kind in ("encoder", "aggregator", "head", "output"):
        assert {getattr(spec.model, kind).name for spec in specs} >= set(available(f"models.{kind}s")), kind
