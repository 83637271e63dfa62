"""Private APIs of other libraries: every use of one in the project goes through this module.

tests/common/test_compat.py checks what is expected of each with the pinned versions (constraints.txt); an upgrade that
breaks one fails there. torch, submitit and trimesh are imported on first use.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

SUBMITIT_JOB_MODULE = "submitit.core._submit"  # python -m …: runs the pickled function of a job
SUBMITIT_LOCAL_MODULE = "submitit.local._local"  # python -m …: the controller of submitit's local executor


def profiler_enabled() -> bool:
    """Whether a torch profiler is recording in this process (torch.autograd)."""
    import torch

    return bool(torch.autograd._profiler_enabled())  # type: ignore[attr-defined]


def shapes_only() -> bool:
    """Whether tensors have shapes and no values here: under FakeTensorMode (torch._guards), as an estimate traces."""
    from torch._guards import detect_fake_mode

    return detect_fake_mode() is not None


def attention_operators() -> list[Any]:
    """What scaled_dot_product_attention runs, where a device has an operator of its own for it (torch.ops.aten)."""
    import torch

    aten = torch.ops.aten
    return [
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
    ]


def is_dropout(module: nn.Module) -> bool:
    """Whether it is one of torch's dropout layers, of whatever dimension (their base, torch.nn.modules.dropout)."""
    import torch

    return isinstance(module, torch.nn.modules.dropout._DropoutNd)


@contextmanager
def memory_snapshot(path: Path) -> Iterator[None]:
    """Record CUDA's allocations of a block, with their stacks, into a file (as PyTorch documents it)."""
    import torch

    torch.cuda.memory._record_memory_history()
    try:
        yield
        torch.cuda.memory._dump_snapshot(str(path))  # type: ignore[no-untyped-call]
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)


def tensor_norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The 2-norm of each tensor, computed together (torch._foreach_norm, as torch.nn.utils.get_total_norm does)."""
    import torch

    return list(torch._foreach_norm(list(tensors)))


def copy_tensors(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each source into its target in place, all at once (torch._foreach_copy_)."""
    import torch

    torch._foreach_copy_(list(targets), list(sources))


def sbatch_script(command: str, folder: Path, parameters: Mapping[str, Any]) -> str:
    """The batch script that submitit would submit, on machines without SLURM, too (submitit 1.5)."""
    from submitit.slurm.slurm import _make_sbatch_string

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parameters that only some versions of SLURM know
        return str(_make_sbatch_string(command=command, folder=folder, **parameters))


def numpy_reconstruct() -> Callable[..., Any]:
    """The function that pickled numpy arrays name as their constructor (numpy 2)."""
    function: Callable[..., Any] = np._core.multiarray._reconstruct  # type: ignore[attr-defined]
    return function
