"""Where the source and the cache are."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]  # a checkout, or a snapshot of one
SNAPSHOT = "snapshot.json"  # in a snapshot's root: its commit and its local changes
CACHE_VARIABLE = "EAD_BENCH_CACHE"


def cache_dir() -> Path:
    """$EAD_BENCH_CACHE, or ~/.cache/ead-bench: LPIPS backbones, compiled kernels, procedural scenes.

    A user without a home directory (some containers) gets a folder of the system's temporary directory.
    """
    if folder := os.environ.get(CACHE_VARIABLE):
        return Path(folder)
    try:
        return Path.home() / ".cache" / "ead-bench"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"ead-bench-{os.getuid()}"
