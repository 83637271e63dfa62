"""The canary: if these pass a wrong shape, nothing else that relies on the shape hook means anything."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError

from bench.rendering import Rendering
from models.layers import Block
from models.tensors import Tokens


def test_a_wrong_argument_is_refused() -> None:
    block = Block(8, 2, bias=False, fused=False, eps=1e-5)
    block(torch.zeros(1, 4, 8))
    with pytest.raises(TypeCheckError):
        block(torch.zeros(4, 8))


def test_a_wrong_field_is_refused() -> None:
    Tokens(torch.zeros(1, 2, 3, 4, 5))
    with pytest.raises(TypeCheckError):
        Tokens(torch.zeros(1, 2, 3, 4))


@pytest.mark.parametrize(
    ("module", "call"),
    [
        (
            "bench.evaluation.metrics",
            lambda m: m.point_error(torch.zeros(2, 4, 3), torch.zeros(2, 4, 2), torch.ones(2, 4) > 0),
        ),
        ("bench.losses", lambda m: m.Prediction(None, torch.zeros(3))),
        ("bench.data.batch", lambda m: m.Batch(**dict.fromkeys(m.Batch.__dataclass_fields__, torch.zeros(1)))),
    ],
)
def test_each_package_with_shapes_is_checked(module: str, call: Callable[[Any], object]) -> None:
    with pytest.raises(TypeCheckError):
        call(import_module(module))


def test_disagreeing_fields_are_refused() -> None:
    image, depth = torch.zeros(1, 2, 3, 4, 5), torch.zeros(1, 2, 4, 5)
    Rendering(image, depth, depth)
    with pytest.raises(TypeCheckError):
        Rendering(image, depth, torch.zeros(1, 2, 5, 4))
