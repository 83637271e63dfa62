"""`python -m support.fake_gpu CASES`: the real training step on a GPU that does not exist, in a process of its own.

A build of torch for CPUs aborts when autograd meets tensors of device "cuda". Its slot for further back ends
(PrivateUse1) gets a device guard without a device instead, under the name "gpu": with FakeTensorMode, tensors there
have shapes, types and a device, but no values. Operators that mix devices fail as they do on CUDA. Beyond that, what
reads or makes a tensor on the host is found as well, scalars and indices among them, because a GPU waits for those.

Not seen: branches for `device.type == "cuda"` (gsplat's buffers stand in for gsplat), and autocast, which is ignored.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from bench import config
from bench.config.schema import InitSpec
from bench.data.batch import Batch
from bench.losses import Prediction
from bench.profiling.estimate.fake_step import batch_of_shapes, dearest_step
from bench.rendering import automatic_backend
from bench.training.trainer import Trainer
from support.base_models import BASES
from support.paths import ROOT

OURS = tuple(f"{ROOT}/{folder}/" for folder in ("bench", "models", "tests"))
ON_THE_HOST = {"bench/losses/completion.py"}  # draws masks from a seed for each scene, as data is drawn
DEVICE = torch.device("privateuseone", 0)  # printed as gpu:0


class GPU:
    """What torch asks the module of a back end."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def manual_seed_all(self, seed: int) -> None:
        pass

    def _is_in_bad_fork(self) -> bool:
        return False

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


class HostTensors(TorchDispatchMode):
    """Where operators read or make tensors on the host: "file:line: operator".

    `Functions` raises it: an error inside of an operator ends the process in torch's convolutions and backward passes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.accesses: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        tensors = [value for value in tree_leaves((args, kwargs, result)) if isinstance(value, Tensor)]
        if function.namespace == "aten" and any(tensor.device != DEVICE for tensor in tensors):
            frames = [frame for frame in traceback.extract_stack() if frame.filename.startswith(OURS)]
            frame = [frame for frame in frames if not frame.name.startswith("__torch_")][-1]
            name = str(Path(frame.filename).relative_to(ROOT))
            if name not in ON_THE_HOST:
                self.accesses.append(f"{name}:{frame.lineno}: {function}")
        return result


class Functions(TorchFunctionMode):
    """Raises AssertionError before the first function after a tensor on the host. And `new_tensor` with values of the
    host has its tensor's device by definition, but cannot be faked."""

    def __init__(self, host: HostTensors) -> None:
        super().__init__()
        self.host = host

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert not self.host.accesses, self.host.accesses[0]
        if function is Tensor.new_tensor:
            return args[0].new_empty(np.shape(args[1]))
        return function(*args, **(kwargs or {}))


def step(base: str, overrides: Sequence[str], misplaced: str) -> None:
    """One step of a base at scale tiny with all losses and statistics; `misplaced`: a key of MISPLACED, or empty.

    Raises AssertionError for a tensor on the host.
    """
    (run,) = config.load(BASES / f"{base}.yaml", ["train.batch=2", *overrides], "tiny").runs
    spec = replace(run.spec, init=InitSpec())
    with FakeTensorMode(), automatic_backend("gsplat_shapes"):
        trainer = Trainer(spec, DEVICE)
        batch = batch_of_shapes(spec, spec.train.batch).to(DEVICE)
        if misplaced:
            MISPLACED[misplaced](trainer)
        with HostTensors() as host, Functions(host):
            values = trainer.step(dearest_step(spec), batch)
        assert not host.accesses, host.accesses[0]
    state = [*trainer.model.state_dict().values(), *tree_leaves(trainer.optimizer.state_dict()["state"])]
    assert all(value.device == DEVICE for value in [*values.values(), *state])


def _host_factor(factor: Callable[[Tensor], Tensor]) -> Callable[[Trainer], None]:
    """Multiplies the first loss term by a factor that is computed from its values."""

    def misplace(trainer: Trainer) -> None:
        name, term = next(iter(trainer.terms.items()))

        def misplaced(prediction: Prediction, batch: Batch) -> Tensor:
            values = term(prediction, batch)
            return values * factor(values)

        trainer.terms = {**trainer.terms, name: misplaced}

    return misplace


def _weight_on_the_host(trainer: Trainer) -> None:
    name, weight = next(iter(trainer.model.named_parameters()))
    owner, _, last = name.rpartition(".")
    setattr(trainer.model.get_submodule(owner), last, torch.nn.Parameter(torch.empty(weight.shape)))


MISPLACED: dict[str, Callable[[Trainer], None]] = {
    "a vector": _host_factor(lambda values: torch.ones(len(values))),
    "a scalar": _host_factor(lambda values: torch.ones(())),
    "an index": _host_factor(lambda values: values[torch.arange(len(values))]),
    "a weight": _weight_on_the_host,
}


def main(cases: Mapping[str, Sequence[Any]]) -> None:
    """{name: arguments of `step`}: prints {name: the error, or null} as JSON."""
    _setup_privateuseone_for_python_backend("gpu", backend_module=GPU())
    library = torch.library.Library("_", "IMPL")
    library.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    errors: dict[str, str | None] = {}
    for name, arguments in cases.items():
        try:
            step(*arguments)
            errors[name] = None
        except Exception as error:
            errors[name] = f"{type(error).__name__}: {str(error)[:400]}"
    print(json.dumps(errors), flush=True)
    os._exit(0)  # autograd's thread for the device would end the process with an error


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
