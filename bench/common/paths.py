"""Where the harness keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]  # a checkout, or a snapshot of one
SNAPSHOT = "snapshot.json"  # in a snapshot's root: its commit and what differed from it


def cache_dir() -> Path:
    """$EAD_BENCH_CACHE, or ~/.cache/ead-bench: LPIPS backbones, compiled kernels, procedural scenes."""
    return Path(os.environ.get("EAD_BENCH_CACHE") or Path.home() / ".cache" / "ead-bench")
