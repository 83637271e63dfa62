"""The environment of this process: cores, rank and world size, device name."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bench.common.errors import UserError

if TYPE_CHECKING:
    import torch

# Set for each process by torchrun and by srun; copied into an interactive shell they describe processes that are gone.
LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR",
                      "MASTER_PORT", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS")  # fmt: skip

log = logging.getLogger(__name__)


def cores() -> int:
    """CPU cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rank_and_world_size(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """(rank, world size) of this process, from torchrun's or srun's variables; (0, 1) without them.

    A batch script or an interactive shell of an allocation is no task of a step, whatever SLURM_NTASKS says; RANK or
    WORLD_SIZE without the other one is ignored. Raises UserError for values that no launcher sets.
    """
    for names in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):
        values = [environment[name] for name in names if name in environment]
        if len(values) == 2:
            if not all(value.isdecimal() for value in values) or int(values[0]) >= int(values[1]):
                settings = " and ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
                raise UserError(f"{settings} describe no process of a launcher: {unset_hint(environment)}")
            return int(values[0]), int(values[1])
        if values and names[0] == "RANK":
            log.warning("only one of RANK and WORLD_SIZE is set: both are ignored")
    return 0, 1


def unset_hint(environment: Mapping[str, str] = os.environ) -> str:
    """How to run as a single process where variables of a launcher were left over."""
    names = [name for name in LAUNCHER_VARIABLES if name in environment]
    return f"for a single process: unset {' '.join(names)}"


def local_world_size(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes torchrun has started on this node; 1 without it. srun binds each task to its own cores."""
    return max(1, int(environment.get("LOCAL_WORLD_SIZE", "1")))


def local_rank(environment: Mapping[str, str] = os.environ) -> int:
    """The process's index on its node, and so the index of its GPU."""
    return int(environment.get("LOCAL_RANK", environment.get("SLURM_LOCALID", "0")))


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()
