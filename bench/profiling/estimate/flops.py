"""Floating-point operations of an operator, a multiplication and an addition counted as two.

Matrix products and convolutions by torch.utils.flop_counter, which has no formula for attention on a CPU: it is
counted as its two products forward and its five backward (the scores are computed again), as for attention on CUDA.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils.flop_counter import flop_registry

from bench.profiling.estimate.torch_internals import ATTENTION, ATTENTION_BACKWARD


def flops_of(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> int:
    """0 for what is neither a matrix product, a convolution nor attention."""
    packet = function._overloadpacket
    if packet is ATTENTION:
        return attention(2, *args[:3])
    if packet is ATTENTION_BACKWARD:
        return attention(5, *args[1:4])
    formula = flop_registry.get(packet)
    return 0 if formula is None else int(formula(*args, **kwargs, out_val=result))


def attention(products: int, query: Tensor, key: Tensor, value: Tensor) -> int:
    """So many products of the size of query · keyᵀ; value is as wide as they are in all models here."""
    batch, heads, tokens, width = query.shape
    return 2 * products * batch * heads * tokens * key.shape[-2] * width
