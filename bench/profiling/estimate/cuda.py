"""What a step does on a GPU that it does not do on a CPU, for a trace that runs on a CPU.

Fake tensors of device "cuda" abort a CPU build of torch in autograd (2.13), so a GPU's step is traced as a CPU's, with
the differences that decide memory: CUDA's autocast, and the buffers that attention's backward pass takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode

from bench.profiling.estimate.torch_internals import ATTENTION_BACKWARD, tree_map

IN_FLOAT32 = {  # of AT_FORALL_FP32 (ATen/autocast_mode.h, 2.13), which a CPU's autocast leaves in bfloat16
    F.layer_norm, F.group_norm, F.interpolate, F.softplus, F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss,
    F.cosine_similarity, torch.exp, torch.expm1, torch.log, torch.log1p, torch.rsqrt, torch.reciprocal, torch.pow,
    torch.logsumexp, Tensor.exp, Tensor.expm1, Tensor.log, Tensor.log1p, Tensor.rsqrt, Tensor.reciprocal, Tensor.pow,
    Tensor.logsumexp,
}  # fmt: skip


class Autocast(TorchFunctionMode):
    """CUDA's list of functions in float32, where autocast is on."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function is torch.autograd.backward:
            return self._backward(*args, **(kwargs or {}))
        if function not in IN_FLOAT32 or not torch.is_autocast_enabled("cpu"):
            return function(*args, **(kwargs or {}))
        args, kwargs = tree_map(_in_float32, (tuple(args), dict(kwargs or {})))
        with torch.autocast("cpu", enabled=False):
            return function(*args, **kwargs)

    def _backward(self, tensors: Sequence[Tensor], grad_tensors: Any = None, **options: Any) -> None:
        """With this mode on, for what is computed again: torch turns it off where a function's arguments are tensors,
        so that the pass starts from the tensors' places in the graph."""
        with self:
            torch.autograd.backward([get_gradient_edge(tensor) for tensor in tensors], grad_tensors, **options)


def _in_float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value


def workspace(function: Any, args: Sequence[Any]) -> int:
    """Bytes that an operator takes while it runs, through PyTorch's allocator.

    FlashAttention 2 sums the gradient of q in float32 and keeps a row's Σ gradient · output (flash_api.cpp).
    """
    if function is not ATTENTION_BACKWARD.default or args[1].dtype == torch.float32:
        return 0
    batch, heads, tokens, width = args[1].shape
    rows = batch * heads * math.ceil(tokens / 128) * 128
    return int(4 * rows * (width + 1))
