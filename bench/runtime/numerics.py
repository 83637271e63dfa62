"""Process-wide settings of torch that affect numerical results: set by every stage, never inherited.

Threads are not among them: a worker sets them once, before its first stage (`bench.work`), and records them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

MatmulPrecision = Literal[
    "highest", "high", "medium"
]  # of fp32 matrix products: fp32, TF32 or bf16 on hardware that has it
EVALUATION_PRECISION: MatmulPrecision = "highest"  # cameras, baselines and metrics are matrix products, too


def configure(device: torch.device, matmul_precision: MatmulPrecision, seed: int) -> None:
    """Set all global state of torch for a stage, independently of earlier stages in the process.

    Every stage calls this before it computes anything: train, profile and trace with the run's own precision, evaluate
    and the overfit check with EVALUATION_PRECISION. CPU algorithms are deterministic; on CUDA the rasterizer sums in
    any order, so results are not reproducible bit by bit. cuDNN keeps torch's default of TF32 convolutions.
    """
    torch.set_default_dtype(torch.float32)
    torch.set_float32_matmul_precision(matmul_precision)
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = False
    torch.use_deterministic_algorithms(device.type == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.manual_seed(seed)


@contextmanager
def evaluation_precision() -> Iterator[None]:
    """Use the evaluation's precision within another stage: for validation during training."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(EVALUATION_PRECISION)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def precision_settings() -> dict[str, Any]:
    """The current settings, ready for JSON. The dtypes of autocast belong to the model: see the run's spec."""
    return {
        "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cuda_matmul_allow_tf32": torch.backends.cuda.matmul.allow_tf32,
        "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
    }
