"""FSDP2 in two gloo processes: the gradients and the run of one process, whose checkpoints fit either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.ranks import gradients, run_on_two, steps
from support.training import batch_of, run, spec, stop_after

from bench.common.json_files import read_json
from bench.config.validate import problems
from bench.profiling.flops import forward_gflop
from bench.runtime.distributed import SINGLE_PROCESS
from bench.training.train import Stopped

TOLERANCE = 1e-5  # ‖g − g′‖ / ‖g‖ of each parameter, in float32
LEAN = ("train.shard=true", "train.regime=lean")
MODELS = {
    "ours2": LEAN,
    "dust3r": ("train.shard=true",),  # blocks that run once for every view
    "lrm": LEAN,  # an output with weights of its own, read while rendering
}


@pytest.mark.parametrize("base", MODELS)
def test_gradients_are_those_of_one_process(base: str, tmp_path: Path) -> None:
    run_on_two("gradients", base, tmp_path / "gradients.safetensors", *MODELS[base])
    actual, expected = load_file(tmp_path / "gradients.safetensors"), gradients(base, [], SINGLE_PROCESS)
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        if norm := float(gradient.norm()):
            assert float((actual[name] - gradient).norm()) / norm <= TOLERANCE, name


def test_an_output_with_weights_of_its_own_is_clipped_and_updated(tmp_path: Path) -> None:
    """Weights that stay whole beside sharded ones: two steps are those of one process, in about half of its memory."""
    run_on_two("steps", "lrm", tmp_path / "steps.safetensors", *LEAN)
    actual, expected = load_file(tmp_path / "steps.safetensors"), steps("lrm", [], SINGLE_PROCESS)
    assert actual.keys() == expected.keys() and "gradient_norm/output, step 1" in actual
    assert 0.45 < float(actual.pop("bytes")) / float(expected.pop("bytes")) < 0.75
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-3, atol=1e-6, msg=name)


def test_checkpoints_know_nothing_of_shards(tmp_path: Path) -> None:
    """Steps in two processes, in one, and in two again are the steps of one: losses, clipping, moments, averages.

    The run's profile is that of whole weights.
    """
    alone = run(tmp_path / "alone", spec(ema=0.9))
    run_on_two("train", tmp_path / "mixed", 6)
    with pytest.raises(Stopped):
        run(tmp_path / "mixed", spec(ema=0.9), stop=stop_after(6))
    run_on_two("train", tmp_path / "mixed", 100)
    lines = [[record["loss"], record["gradient_norm/aggregator"]] for record in alone.metrics()]
    mixed = [[r["loss"], r["gradient_norm/aggregator"]] for r in type(alone)(tmp_path / "mixed").metrics()]
    torch.testing.assert_close(torch.tensor(mixed), torch.tensor(lines), rtol=1e-3, atol=1e-6)
    ours, theirs = (load_file(tmp_path / name / "weights.safetensors") for name in ("mixed", "alone"))
    assert max(float((ours[key] - theirs[key]).abs().max()) for key in theirs) < 1e-4
    run_on_two("profile", tmp_path / "mixed", tmp_path / "profile.json")
    profile, views = read_json(tmp_path / "profile.json"), batch_of(spec(), 0).scenes_at(0, 1).inputs
    assert len(profile["ranks"]) == 2 and profile["weights"] == "trained"
    assert profile["forward_gflop"] == forward_gflop(spec().model.build(), views) and profile["inference"]["gaussians"]


@pytest.mark.parametrize(("change", "text"), [({"keep": "best"}, "keep: last"), ({"compile": True}, "train.compile")])
def test_what_shards_do_not_go_with(change: dict[str, Any], text: str) -> None:
    (problem,) = problems(spec(shard=True, **change))
    assert problem.field == "train.shard" and text in problem.message
