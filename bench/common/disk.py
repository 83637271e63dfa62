"""What a run needs on disk, priced from its spec; and what to say when there is no room."""

from __future__ import annotations

import errno
import shutil
from dataclasses import dataclass
from pathlib import Path

FLOAT = 4  # bytes: weights and both moments of AdamW are stored in fp32, whatever the precision of the parts
DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
DISK_FULL_PATTERNS = (
    "No space left on device",
    "Disk quota exceeded",
)  # in errors of safetensors, which carry no number


@dataclass(frozen=True)
class Disk:
    """Bytes of weights and checkpoints; the records beside them are some hundred bytes a step."""

    training: int  # at most, while a run trains: two checkpoints, of which the older goes once the newer stands
    kept: int  # after it


def disk_usage_of_run(parameters: int, keep: str, steps: int) -> Disk:
    """Of one run, from its number of trained parameters, `train.keep` and `train.steps`."""
    weights = FLOAT * parameters
    if steps == 0:
        return Disk(training=weights, kept=weights)
    best = 2 * weights if keep == "best" else 0  # an older one stays until the newer stands, here too
    return Disk(training=2 * 3 * weights + best, kept=weights)


def free_bytes(folder: Path) -> int:
    """Bytes free where a folder is or will be."""
    there = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    return shutil.disk_usage(there).free


def format_bytes(count: int) -> str:
    """5708618772 → 5.7 GB."""
    return f"{count / 1e9:.1f} GB" if count >= 10**8 else f"{count / 1e6:.1f} MB"


def is_disk_full(error: BaseException) -> bool:
    """Whether this error says that the disk, or a quota on it, is full."""
    return (isinstance(error, OSError) and error.errno in DISK_FULL_ERRNOS) or any(
        sign in str(error) for sign in DISK_FULL_PATTERNS
    )
