"""The process-wide settings of torch that decide which numbers come out: set by every stage, never inherited.

Threads are not among them: a worker sets them once, before its first stage (`bench.work`), and they are recorded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from bench.spec.schema import RunSpec


def configure(spec: RunSpec, device: torch.device) -> None:
    """Set all global state of torch as this run wants it on this device, whatever ran before in the process.

    Every stage (train, evaluate, profile, trace, overfit check) calls this before it computes anything, so that none
    depends on the stages before it. On a CPU algorithms are deterministic; on CUDA the rasterizer adds in any order,
    so nothing is promised there. cuDNN keeps torch's own default of TF32 convolutions.
    """
    torch.set_default_dtype(torch.float32)
    torch.set_float32_matmul_precision(spec.train.matmul_precision)
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = False
    torch.use_deterministic_algorithms(device.type == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.manual_seed(spec.seed)


def precision_settings() -> dict[str, Any]:
    """What is in force now, ready for JSON. The dtypes of autocast are the model's own: see the run's spec."""
    return {
        "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cuda_matmul_allow_tf32": torch.backends.cuda.matmul.allow_tf32,
        "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
    }
