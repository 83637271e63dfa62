"""Who computes which scenes of a step. One process is rank 0 of 1 and runs the same code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.common.compat import copy_tensors

BUCKET = 2**24  # numbers summed at once: 64 MiB of fp32


@dataclass(frozen=True)
class DistributedContext:
    """Rank r of a world of w takes samples r, r + w, r + 2w … of every step.

    Losses are divided by the step's scenes, not the rank's, so that ranks add up: Group overrides the exchanges with
    those between all of them.
    """

    rank: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this rank writes."""
        return self.rank == 0

    def samples(self, batch: int) -> range:
        """This rank's share of a step's samples."""
        return range(self.rank, batch, self.world_size)

    def reduce_gradients(self, model: nn.Module) -> None:
        """Sum each gradient over ranks, in place."""

    def reduce(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sum each value over ranks."""
        return values

    def any(self, flag: bool) -> bool:
        """Whether some rank says so: all stop at the same step."""
        return flag

    def gather(self, content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """What every rank says, in their order, known to all; no rank goes on before the last has spoken."""
        return [content]

    def broadcast(self, words: Sequence[str] = ()) -> list[str]:
        """What the first rank says, known to all; what others say is not heard."""
        return list(words)


@dataclass(frozen=True)
class ProcessGroupContext(DistributedContext):
    """Several processes, joined by bench.runtime.rendezvous: NCCL between GPUs, gloo between CPUs.

    Every rank holds the whole model and optimizer, and the gradients' sum is the same on all, so weights stay equal
    without being sent. Gradients are summed after the backward pass, in buckets: a part may leave parameters unused,
    and micro-batches need no care.
    """

    def reduce_gradients(self, model: nn.Module) -> None:
        for bucket in _buckets([p.grad for p in model.parameters() if p.grad is not None]):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            torch.distributed.all_reduce(flat)
            parts = flat.split_with_sizes([gradient.numel() for gradient in bucket])
            copy_tensors(bucket, [part.view_as(g) for part, g in zip(parts, bucket, strict=True)])

    def reduce(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        summed = torch.stack([value.float() for value in values.values()])
        torch.distributed.all_reduce(summed)
        return dict(zip(values, summed.unbind(), strict=True))

    def any(self, flag: bool) -> bool:
        said = torch.tensor([flag], dtype=torch.uint8)  # on the CPU: no GPU is waited for
        torch.distributed.all_reduce(said, torch.distributed.ReduceOp.MAX)
        return bool(said)

    def gather(self, content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        found: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(found, content)
        return found

    def broadcast(self, words: Sequence[str] = ()) -> list[str]:
        box = [list(words)]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """In order, each of one dtype and of BUCKET numbers at most unless one gradient alone has more."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        if bucket and (sum(g.numel() for g in bucket) + gradient.numel() > BUCKET or bucket[0].dtype != gradient.dtype):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


SINGLE_PROCESS = DistributedContext()
