"""Forward FLOPs: a small model counted by hand, attention included, and every base at a tiny size."""

from __future__ import annotations

import pytest
import torch
from support.base_models import BASES, base_model
from support.training import SIZE, spec

from bench.profiling.flops import forward_gflop
from models.tensors import Cameras, Views


def test_counts_are_those_of_hand() -> None:
    """Patch embedding, q, k, v and output projections, both products of attention, the MLP (× 4) and the head."""
    model = spec().model
    views, tokens, width, patch = 4, 4 * (SIZE // 4) ** 2, 32, 4
    embedding = 2 * tokens * (3 * patch * patch) * width
    block = 2 * tokens * width * width * (4 + 8) + 2 * 2 * tokens * tokens * width
    head = 2 * tokens * width * (patch * patch * sum(model.output.channels().values()))
    images = torch.rand(2, views, 3, SIZE, SIZE)
    assert forward_gflop(model.build(seed=0), Views(images)) == pytest.approx((embedding + block + head) / 1e9)


@pytest.mark.parametrize("name", sorted(path.stem for path in BASES.glob("*.yaml")))
def test_every_base_is_counted(name: str) -> None:
    """Two views cost less than twice one only where views meet in attention; nothing of the model is changed."""
    spec = base_model(name, "tiny")
    inputs = spec.inputs or 2
    cameras = Cameras(
        torch.eye(4).repeat(1, inputs, 1, 1),
        torch.tensor([[32.0, 0, 16], [0, 32.0, 16], [0, 0, 1]]).repeat(1, inputs, 1, 1), 32, 32,
    )  # fmt: skip
    model = spec.build(seed=0).train()
    assert forward_gflop(model, Views(torch.rand(1, inputs, 3, 32, 32), cameras)) > 0.01
    assert model.training and all(
        parameter.requires_grad and parameter.grad is None for parameter in model.parameters()
    )
