"""Modules without values, for estimates: built on the meta device, where no random number is drawn and no file read."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from bench.common.compat import shapes_only

Module = TypeVar("Module", bound=nn.Module)


def build_without_values(build: Callable[[], Module]) -> Module:
    """What `build` gives, with tensors of the CPU; called under FakeTensorMode, where those take no memory.

    Under that mode alone, initialization fails: torch.nn.init.trunc_normal_ reads a value.
    """
    with torch.device("meta"):
        module = build()
    state = {name: torch.empty(value.shape, dtype=value.dtype) for name, value in module.state_dict().items()}
    module.load_state_dict(state, assign=True)
    return module


def to_device(module: Module, device: torch.device) -> Module:
    """`module.to(device)`, also of a module without values, which `nn.Module.to` refuses to move."""
    if not shapes_only():
        return module.to(device)
    state = module.state_dict()
    if any(value.device != device for value in state.values()):
        module.load_state_dict({name: value.to(device) for name, value in state.items()}, assign=True)
    return module
