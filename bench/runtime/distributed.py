"""The ranks of a run and what they exchange. A single process is rank 0 of 1 and runs the same code."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.common.compat import copy_tensors

BUCKET = 2**24  # elements per all-reduce: 64 MiB of fp32


@dataclass(frozen=True)
class DistributedContext:
    """Rank r of a world of size w computes samples r, r + w, r + 2w … of every step.

    Losses are divided by the scenes of the whole step, so that sums over ranks equal those of a single process;
    `ProcessGroupContext` overrides the exchanges.
    """

    rank: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this rank writes."""
        return self.rank == 0

    def samples(self, batch: int) -> range:
        """Indices of this rank's samples of a step."""
        return range(self.rank, batch, self.world_size)

    def reduce_gradients(self, model: nn.Module) -> None:
        """Sum each gradient over ranks, in place."""

    def reduce(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sum each value over ranks."""
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return flag

    def gather(self, content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The contents of all ranks, in order, on every rank. A barrier: returns once all ranks have called it."""
        return [content]

    def broadcast(self, strings: Sequence[str] = ()) -> list[str]:
        """The strings of rank 0, on every rank."""
        return list(strings)


@dataclass(frozen=True)
class ProcessGroupContext(DistributedContext):
    """Several processes, joined by bench.runtime.rendezvous: NCCL between GPUs, gloo between CPUs.

    Every rank holds the whole model and optimizer, and the gradients' sum is the same on all, so weights stay equal
    without being exchanged. Gradients are summed after the backward pass, in buckets: parameters may be unused, and
    micro-batches need no special handling.
    """

    def reduce_gradients(self, model: nn.Module) -> None:
        reduce_in_buckets(model, torch.distributed.all_reduce)

    def reduce(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        summed = torch.stack([value.float() for value in values.values()])
        torch.distributed.all_reduce(summed)
        return dict(zip(values, summed.unbind(), strict=True))

    def any(self, flag: bool) -> bool:
        flags = torch.tensor([flag], dtype=torch.uint8)  # on the CPU: without synchronizing a GPU
        torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
        return bool(flags)

    def gather(self, content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        contents: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(contents, content)
        return contents

    def broadcast(self, strings: Sequence[str] = ()) -> list[str]:
        objects = [list(strings)]
        torch.distributed.broadcast_object_list(objects, src=0)
        return objects[0]


def reduce_in_buckets(model: nn.Module, reduce: Callable[[Tensor], object]) -> None:
    """Replace a model's gradients by what `reduce` makes of them, in place, bucket by bucket.

    Those of sharded parameters (bench/training/sharding.py) are sums already.
    """
    gradients = [p.grad for p in model.parameters() if p.grad is not None and not hasattr(p.grad, "full_tensor")]
    for bucket in gradient_buckets(gradients):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        reduce(flat)
        parts = flat.split_with_sizes([gradient.numel() for gradient in bucket])
        copy_tensors(bucket, [part.view_as(g) for part, g in zip(parts, bucket, strict=True)])


def gradient_buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive gradients of one dtype, at most BUCKET elements together (a larger gradient is alone)."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        if bucket and (sum(g.numel() for g in bucket) + gradient.numel() > BUCKET or bucket[0].dtype != gradient.dtype):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


SINGLE_PROCESS = DistributedContext()
