"""How much disk space a run needs, estimated from its spec, and how to recognize a full disk."""

from __future__ import annotations

import errno
import shutil
from dataclasses import dataclass
from pathlib import Path

FLOAT = 4  # bytes: weights and both moments of AdamW are stored in fp32, whatever the precision of the parts
DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
DISK_FULL_PATTERNS = ("No space left on device", "Disk quota exceeded")  # safetensors' errors carry no errno


@dataclass(frozen=True)
class Disk:
    """Bytes of weights and checkpoints; metrics add some hundred bytes per step."""

    training: int  # peak while a run trains: two checkpoints, as the older is removed after the newer is complete
    kept: int  # afterwards


def disk_usage_of_run(parameters: int, keep: str, steps: int) -> Disk:
    """Of one run, from its number of trained parameters, `train.keep` and `train.steps`."""
    weights = FLOAT * parameters
    if steps == 0:
        return Disk(training=weights, kept=weights)
    best = 2 * weights if keep == "best" else 0  # here, too, the older is removed after the newer is complete
    return Disk(training=2 * 3 * weights + best, kept=weights)


def free_bytes(folder: Path) -> int:
    """Bytes free where a folder is or will be."""
    existing = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    return shutil.disk_usage(existing).free


def format_bytes(count: int) -> str:
    """5708618772 → 5.7 GB."""
    return f"{count / 1e9:.1f} GB" if count >= 10**8 else f"{count / 1e6:.1f} MB"


def is_disk_full(error: BaseException) -> bool:
    """Whether the disk, or a quota on it, is full."""
    full_errno = isinstance(error, OSError) and error.errno in DISK_FULL_ERRNOS
    return full_errno or any(pattern in str(error) for pattern in DISK_FULL_PATTERNS)
