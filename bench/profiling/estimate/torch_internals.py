"""What estimates use of torch's internals: the only place beside bench.common.compat that imports private names.

The estimates of real steps in tests/profiling/test_estimate.py fail where one of them changes its meaning.
"""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode as FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode
from torch.utils._pytree import tree_iter as tree_iter
from torch.utils._pytree import tree_map as tree_map

RANGE_ENTER = torch.ops.profiler._record_function_enter_new.default
RANGE_EXIT = torch.ops.profiler._record_function_exit._RecordFunction
CAST = torch.ops.aten._to_copy.default
ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def current_backward_node() -> Any:
    """The autograd node that runs, None outside of a backward pass; `_sequence_nr()` is its place among those that the
    forward pass made."""
    return torch._C._current_autograd_node()


def next_autograd_sequence() -> int:
    """The sequence number of the next node of a forward pass."""
    return int(torch._C._autograd._get_sequence_nr())
