"""A training step of shapes alone: the trainer's own code, on tensors that take no memory."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from bench.config.schema import InitSpec
from bench.data.batch import Batch
from bench.losses import LossSpec
from bench.profiling.estimate import cuda
from bench.profiling.estimate.torch_internals import FakeTensorMode
from bench.profiling.estimate.tracing import Trace, Tracer
from bench.rendering import automatic_backend
from bench.runtime.distributed import SINGLE_PROCESS, DistributedContext, reduce_in_buckets
from bench.runtime.lpips_weights import import_lpips
from bench.training.diagnostics import EVERY
from bench.training.optimizer import geometry_steps
from bench.training.sharding import sharded_blocks
from bench.training.trainer import Trainer
from models.tensors import Cameras, Views

if TYPE_CHECKING:
    from bench.config.schema import RunSpec

Target = Literal["cuda", "cpu"]
CPU = torch.device("cpu")


@dataclass(frozen=True)
class OneOfMany(DistributedContext):
    """One rank of several: the buffers of the exchange, without the exchange."""

    def reduce_gradients(self, model: nn.Module) -> None:
        reduce_in_buckets(model, lambda flat: flat)


def trace_step(spec: RunSpec, scenes: int, ranks: int, target: Target) -> Trace:
    """One step of `scenes` scenes with all losses and statistics, after an earlier one has made the optimizer's state.

    Weights are taken as they are at the end of `Trainer.__init__`; nothing of `spec.init` is read.
    """
    shards = ranks if spec.train.shard else 1
    spec = replace(spec, init=InitSpec(), train=replace(spec.train, compile=False, shard=False))
    if "lpips" in spec.losses:
        import_lpips()
    tracer = Tracer(cuda.workspace if target == "cuda" else lambda function, args: 0)
    with ExitStack() as modes:
        modes.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        modes.enter_context(tracer)
        if target == "cuda":
            modes.enter_context(automatic_backend("gsplat_shapes"))
            modes.enter_context(cuda.Autocast())
        trainer = Trainer(spec, CPU, SINGLE_PROCESS if ranks == shards else OneOfMany(0, ranks))
        tracer.relabel(trainer.model.state_dict().values(), "weights")
        tracer.setup = "batch"
        batch = batch_of_shapes(spec, scenes)
        tracer.setup = "optimizer"
        _make_optimizer_state(trainer, tracer)
        tracer.begin_step()
        if shards > 1:
            tracer.hold(_gathered_bytes(trainer), "exchange")
        trainer.step(dearest_step(spec), batch)
        tracer.relabel(_gradients(trainer), "gradients")
        return shard(tracer.finish(), shards)


def shard(trace: Trace, ranks: int) -> Trace:
    """With the weights, gradients and moments of one of so many ranks; what an output has of its own is small."""
    for i, label in enumerate(trace.labels):
        if label in ("weights", "gradients", "optimizer"):
            trace.sizes[i] = -(-trace.sizes[i] // ranks)
    return trace


def _gathered_bytes(trainer: Trainer) -> int:
    """Most that is whole at once: two blocks, one of them ahead of its turn, and what is in no block; and gradients."""
    sizes = [_bytes(block) for block in sharded_blocks(trainer.model)]
    return 2 * (_bytes(trainer.model) - sum(sizes) + sum(sorted(sizes)[-2:]))


def _bytes(module: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


def dearest_step(spec: RunSpec) -> int:
    """The first step with statistics and all losses."""
    first = geometry_steps(spec.train)
    steps = range(first + -first % EVERY, first + 100 * EVERY, EVERY)
    losses = [loss for loss in spec.losses.values() if isinstance(loss, LossSpec) and loss.weight]
    return next((step for step in steps if all(loss.weight_at(step) for loss in losses)), steps[0])


def _make_optimizer_state(trainer: Trainer, tracer: Tracer) -> None:
    """As an earlier step left it: moments, averages of weights, and gradients that the next step frees."""
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter)
    tracer.relabel(_gradients(trainer), "gradients")
    trainer.update(0, torch.empty(()))


def _gradients(trainer: Trainer) -> list[Tensor]:
    return [parameter.grad for parameter in trainer.model.parameters() if parameter.grad is not None]


def batch_of_shapes(spec: RunSpec, scenes: int) -> Batch:
    """A batch as `bench.data.assemble` makes it."""
    size, inputs = spec.model.image_size, spec.views.inputs
    targets = spec.views.training_targets or spec.views.targets

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(scenes, *shape, dtype=dtype)

    def cameras(views: int) -> Cameras:
        return Cameras(empty(views, 4, 4), empty(views, 3, 3), size, size)

    input_cameras = cameras(inputs)
    known = spec.model.known
    return Batch(
        scenes=tuple(f"scene {i}" for i in range(scenes)),
        input_views=empty(inputs, dtype=torch.int64),
        target_views=empty(targets, dtype=torch.int64),
        inputs=Views(
            empty(inputs, 3, size, size),
            cameras=input_cameras if known == "cameras" else None,
            intrinsics=input_cameras.intrinsics if known == "intrinsics" else None,
        ),
        input_cameras=input_cameras,
        input_alpha=empty(inputs, size, size),
        input_points=empty(inputs, size, size, 3),
        input_mask=empty(inputs, size, size, dtype=torch.bool),
        targets=empty(targets, 3, size, size),
        target_alpha=empty(targets, size, size),
        target_depth=empty(targets, size, size),
        target_cameras=cameras(targets),
        background=empty(targets, 3),
    )
