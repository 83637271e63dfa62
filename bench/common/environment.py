"""Where this process runs: cores, its place among the processes of a run, the name of its device."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rank_and_world_size(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
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


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()
