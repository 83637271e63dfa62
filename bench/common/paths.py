"""Where the source and the cache are, and what the source holds."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]  # a checkout, or a snapshot of one
SNAPSHOT = "snapshot.json"  # in a snapshot's root: its commit and its local changes
CODE_SUFFIXES = (".py", ".cpp", ".yaml")
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


def code_hash(names: Iterable[str], source: Path = SOURCE) -> str:
    """Of the content and the names of code files, and of all below folders; `names` are relative to the source."""
    digest = hashlib.sha256()
    for root in (source / name for name in names):
        for path in [root] if root.is_file() else sorted(root.rglob("*")):
            if path.suffix in CODE_SUFFIXES:
                digest.update(str(path.relative_to(source)).encode() + path.read_bytes())
    return digest.hexdigest()
