"""A dispatch mode that follows a step of fake tensors: which buffers live when, and what each operator costs."""

from __future__ import annotations

import weakref
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.profiling.estimate.flops import flops_of
from bench.profiling.estimate.torch_internals import (
    CAST,
    RANGE_ENTER,
    RANGE_EXIT,
    TorchDispatchMode,
    current_backward_node,
    next_autograd_sequence,
    tree_iter,
)
from bench.rendering.gsplat_shapes import INTERSECTIONS

RANGES = ("encoder", "aggregator", "head", "rasterize", INTERSECTIONS, "losses", "backward", "exchange", "optimizer")
OTHER = "other"  # the part of what lies in no range of the step
Workspace = Callable[[Any, Sequence[Any]], int]  # an operator and its arguments → bytes that it takes while it runs


class Operation(NamedTuple):
    """What decides an operator's time. Equal ones are counted, not listed."""

    phase: str  # forward, backward, update
    part: str  # encoder, aggregator, head, rasterize, losses, exchange, optimizer, other
    dtype: str  # of its floating-point inputs
    flops: int  # of matrix products and convolutions
    traffic: int  # bytes of inputs and outputs


@dataclass
class Trace:
    """Buffers in order of allocation, what happens to them, and the step's operators."""

    sizes: list[int] = field(default_factory=list)  # bytes of each buffer
    labels: list[str] = field(default_factory=list)  # what each buffer is
    events: list[int] = field(default_factory=list)  # i + 1: buffer i is allocated; −(i + 1): it is freed
    step: int = 0  # the event at which the step begins
    operations: Counter[Operation] = field(default_factory=Counter)


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records into `trace`. Ranges of torch.profiler.record_function name the parts; in the backward pass an operator
    belongs to the part whose forward pass made the autograd node that runs."""

    def __init__(self, workspace: Workspace) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = Trace()
        self.workspace = workspace
        self.setup = "loss networks"  # label of buffers that are allocated before the step
        self.counting = False
        self._ranges: list[str] = []
        self._live: dict[int, tuple[int, weakref.ref[Any]]] = {}  # id of a storage → its buffer
        self._borders: list[tuple[int, str]] = []  # autograd sequence number from which nodes belong to the part

    def begin_step(self) -> None:
        self.trace.step, self.counting = len(self.trace.events), True

    def hold(self, size: int, label: str) -> None:
        """Bytes that are taken from here to the end, beside what is traced."""
        self._allocate(size, label)

    def finish(self) -> Trace:
        """The trace of all until here; what is freed later belongs to no step."""
        self._live.clear()
        return self.trace

    def relabel(self, tensors: Iterable[Tensor], label: str) -> None:
        """Of tensors' buffers, once it is known what they are."""
        for tensor in tensors:
            if (known := self._live.get(id(tensor.untyped_storage()))) is not None:
                self.trace.labels[known[0]] = label

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if function is RANGE_ENTER or function is RANGE_EXIT:
            self._enter_or_exit(args[0] if function is RANGE_ENTER else None)
            return result
        inputs = [value for value in tree_iter((args, kwargs)) if isinstance(value, Tensor)]
        outputs = [value for value in tree_iter(result) if isinstance(value, Tensor) and not value.is_meta]
        phase, part = self._phase_and_part()
        temporary = self.workspace(function, args) if self.counting else 0
        if temporary:
            self._allocate(temporary, "workspaces")
        own = len(self.trace.sizes)
        label = self._label(phase, part, function, inputs)
        for tensor in outputs:
            self._follow(tensor, label)
        if temporary:
            self.trace.events.append(-own)
        if self.counting and (len(self.trace.sizes) > own or function._schema.is_mutable):
            self._count(function, args, kwargs or {}, result, inputs, outputs, phase, part)
        return result

    def _enter_or_exit(self, name: str | None) -> None:
        if name is None:
            self._ranges.pop()
        else:  # ranges of torch itself, such as the optimizer's, belong to the one around them
            self._ranges.append(name if name in RANGES or not self._ranges else self._ranges[-1])
        if self.counting and "backward" not in self._ranges:
            self._borders.append((next_autograd_sequence(), self._ranges[-1] if self._ranges else OTHER))

    def _phase_and_part(self) -> tuple[str, str]:
        current = self._ranges[-1] if self._ranges else OTHER
        if "backward" not in self._ranges:
            return ("update" if current in ("exchange", "optimizer") else "forward"), current
        node = current_backward_node()
        sequence = None if node is None else node._sequence_nr()
        index = -1 if sequence is None else bisect_right(self._borders, sequence, key=lambda border: border[0]) - 1
        return "backward", self._borders[index][1] if index >= 0 else OTHER

    def _label(self, phase: str, part: str, function: Any, inputs: Sequence[Tensor]) -> str:
        if not self.counting:
            return self.setup
        if phase == "backward":
            return phase
        if function is CAST and self._is_weight(inputs[0]):
            return "weights in bf16"
        return part

    def _is_weight(self, tensor: Tensor) -> bool:
        known = self._live.get(id(tensor.untyped_storage()))
        return known is not None and self.trace.labels[known[0]] == "weights"

    def _follow(self, tensor: Tensor, label: str) -> None:
        storage = tensor.untyped_storage()
        if id(storage) not in self._live:
            buffer = self._allocate(storage.nbytes(), label)
            key = id(storage)
            self._live[key] = (buffer, weakref.ref(storage, lambda _: self._free(key)))

    def _allocate(self, size: int, label: str) -> int:
        self.trace.sizes.append(size)
        self.trace.labels.append(label)
        self.trace.events.append(len(self.trace.sizes))
        return len(self.trace.sizes) - 1

    def _free(self, key: int) -> None:
        buffer, _ = self._live.pop(key)
        self.trace.events.append(-(buffer + 1))

    def _count(
        self, function: Any, args: Sequence[Any], kwargs: dict[str, Any], result: Any, inputs: Sequence[Tensor],
        outputs: Sequence[Tensor], phase: str, part: str,
    ) -> None:  # fmt: skip
        floating = [tensor.dtype for tensor in (*inputs, *outputs) if tensor.is_floating_point()]
        dtype = str(floating[0] if floating else torch.float32).removeprefix("torch.")
        traffic = sum(tensor.numel() * tensor.element_size() for tensor in (*inputs, *outputs))
        flops = flops_of(function, args, kwargs, result)
        self.trace.operations[Operation(phase, part, dtype, flops, traffic)] += 1
