"""FSDP2: weights, gradients and moments of the optimizer spread over the ranks of a run (torch's fully_shard).

A block's weights are gathered when it runs and its gradients are summed where they are kept; all else is one group.
What leaves a step, checkpoints above all, is whole, as a single process writes and reads it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.ead import EAD
from models.weights import validate_state_dict


def shard(model: EAD, device: torch.device, world_size: int) -> None:
    """In place, before the optimizer is built. The output's own weights stay whole: rendering reads them, after the
    model's forward pass."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh, kept = init_device_mesh(device.type, (world_size,)), set(model.output.parameters())
    for group in (*sharded_blocks(model), model):
        fully_shard(group, mesh=mesh, ignored_params=kept)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # losses are divided by the scenes of all ranks
            module.set_force_sum_reduction_for_comms(True)  # gloo knows sums alone
    # nothing changes an output in place
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)


def sharded_blocks(model: EAD) -> Iterator[nn.Module]:
    """Blocks that run once in a forward pass."""
    for part in model.parts():
        yield from model.blocks(part)


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor, of which this rank holds a part."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on every rank, which all must ask for."""
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def split_by_layout(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Those that are sharded and those that are not, which no operator takes together; neither list is empty."""
    groups: dict[bool, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(is_sharded(tensor), []).append(tensor)
    return list(groups.values())


def is_model_sharded(model: EAD) -> bool:
    return any(map(is_sharded, model.parameters()))


def whole_model(model: EAD, keep: bool) -> EAD:
    """The model with all of its weights, on the CPU where they were sharded; every rank must ask, and those that do not
    `keep` it get initial ones."""
    if not is_model_sharded(model):
        return model
    state, plain = gathered(model.state_dict(), keep), model.spec.build()
    if keep:
        plain.load_state_dict(state)
    return plain


def part_of(tensor: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a tensor that all have, laid out as another; all of it where that is not sharded."""
    if not is_sharded(like):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def load_whole(model: EAD, state: Mapping[str, Tensor], source: str) -> None:
    """Give a model, sharded or not, a whole state, strictly. Raises WeightsError."""
    validate_state_dict(model, dict(state), source)
    own = model.state_dict()
    model.load_state_dict({key: part_of(value, own[key]) for key, value in state.items()}, strict=True)


def gathered(state: Mapping[str, Any], keep: bool) -> dict[str, Tensor]:
    """A whole state on the CPU; every rank must ask, and those that do not `keep` it get nothing."""
    result = {}
    for key, value in state.items():
        tensor = whole(value)
        if keep:
            result[key] = tensor.cpu() if is_sharded(value) else tensor.contiguous()
    return result
