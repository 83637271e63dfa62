"""What ran it: recorded beside every run and sweep, and no part of a run's id."""

from __future__ import annotations

import os
import platform
import socket
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def place(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """(rank, world): which of how many processes of one run this is, as torchrun or srun says; else (0, 1).

    A batch script or an interactive shell of an allocation is no task of a step, whatever SLURM_NTASKS says.
    """
    if "WORLD_SIZE" in environment:
        return int(environment["RANK"]), int(environment["WORLD_SIZE"])
    if "SLURM_PROCID" in environment and "SLURM_STEP_NUM_TASKS" in environment:
        return int(environment["SLURM_PROCID"]), int(environment["SLURM_STEP_NUM_TASKS"])
    return 0, 1


def local_rank(environment: Mapping[str, str] = os.environ) -> int:
    """Which of its node's processes this is, and so which of its GPUs."""
    return int(environment.get("LOCAL_RANK", environment.get("SLURM_LOCALID", "0")))


def describe(device: torch.device, threads: int) -> dict[str, Any]:
    """Ready for JSON: software, hardware, commit ("+" where files differ from it), LPIPS backbones by content."""
    import torch

    from bench import lpips_weights
    from bench.measure import commit, device_name

    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "device": str(device),
        "device_name": device_name(device),
        "processor": device_name(torch.device("cpu")),
        "cores": cores(),
        "threads": threads,
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "commit": commit(),
        "lpips_sha256": {net: lpips_weights.SHA256[net] if lpips_weights.available(net) else None
                         for net in lpips_weights.NETS},
    }  # fmt: skip
