"""preview.png shows the first evaluation scene while a run trains, and changes nothing of the training."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from support.balls import Balls
from support.training import CPU, SIZE, spec

from bench.data.sampler import Sampler
from bench.data.scene import SceneData
from bench.data.storage.store import Broken
from bench.runs.folder import RunFolder
from bench.runs.writer import PlainWriter
from bench.training import preview
from bench.training.train import train
from models import weights

ROWS = ("inputs", "truth", "rendering", "depth")


def test_a_run_draws_its_preview(tmp_path: Path) -> None:
    of = spec(steps=preview.FIRST_STEPS)
    train(of, PlainWriter(tmp_path), device=CPU, source=Balls(SIZE))
    with Image.open(tmp_path / preview.FILE) as image:
        assert image.width > of.views.targets * preview.TILE and image.height > len(ROWS) * preview.TILE
        assert len(np.unique(np.asarray(image))) > 16


def test_the_preview_is_not_part_of_the_result(tmp_path: Path) -> None:
    """Equal weights with a preview in the middle and without any."""
    steps = preview.FIRST_STEPS + 4
    with_preview = spec(steps=steps)
    train(with_preview, PlainWriter(tmp_path / "shown"), device=CPU, source=Balls(SIZE))
    assert (tmp_path / "shown" / preview.FILE).is_file()
    model, sampler = weights.load(tmp_path / "shown"), Sampler(Balls(SIZE), with_preview.views, 0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random_state = torch.random.get_rng_state()
    preview.draw(model.train(), sampler.evaluation(["evaluation/0"]), "title")
    assert model.training and torch.equal(random_state, torch.random.get_rng_state())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_short_session_draws_none(tmp_path: Path) -> None:
    train(spec(steps=preview.FIRST_STEPS - 1), PlainWriter(tmp_path), device=CPU, source=Balls(SIZE))
    assert RunFolder(tmp_path).training() and not (tmp_path / preview.FILE).exists()


class BrokenEvaluation(Balls):
    """A source none of whose evaluation scenes can be read."""

    def read(self, scene: str, views: Sequence[int]) -> SceneData:
        raise Broken("truncated", scene, "for this test")


def test_broken_scenes_are_passed_over(tmp_path: Path) -> None:
    writer = PlainWriter(tmp_path)
    of = spec()
    drawing = preview.Preview(of, Sampler(BrokenEvaluation(SIZE), of.views, 0), writer)
    model = of.model.build(0)
    for step in range(1, 2 * preview.FIRST_STEPS):
        drawing.maybe_draw(step, lambda: nullcontext(model))
    assert not (tmp_path / preview.FILE).exists()
