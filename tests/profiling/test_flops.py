"""Forward FLOPs: a small model counted by hand, attention included, and Table 2's ratios at paper size."""

from __future__ import annotations

import pytest
import torch
from support.training import SIZE, spec

from bench.profiling.flops import forward_gflop
from models.tensors import Views


def test_counts_are_those_of_hand() -> None:
    """Patch embedding, q, k, v and output projections, both products of attention, the MLP (× 4) and the head."""
    model = spec().model
    views, tokens, width, patch = 4, 4 * (SIZE // 4) ** 2, 32, 4
    embedding = 2 * tokens * (3 * patch * patch) * width
    block = 2 * tokens * width * width * (4 + 8) + 2 * 2 * tokens * tokens * width
    head = 2 * tokens * width * (patch * patch * sum(model.output.channels().values()))
    images = torch.rand(2, views, 3, SIZE, SIZE)
    assert forward_gflop(model.build(seed=0), Views(images)) == pytest.approx((embedding + block + head) / 1e9)
