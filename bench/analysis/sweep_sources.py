"""What a co-author needs to see what was run: the text of spec and bases, and how the code differed from its commit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.common.paths import SOURCE
from bench.runtime import provenance

if TYPE_CHECKING:
    from bench.config import Sweep


def sweep_sources(sweep: Sweep) -> dict[str, Any]:
    """For sweep.json: "sources", file → text of the spec, of specs that it includes and of its bases; "code_diff"."""
    from bench.config.spec_files import base_files

    folder = sweep.path.parent
    specs = [sweep.path, *(folder / f"{run.origin['spec']}.yaml" for run in sweep.runs)]
    bases = [path for run in sweep.runs if (path := base_files(folder).get(run.origin["base"]))]
    texts = {
        _name(path): path.read_text(encoding="utf-8") for path in dict.fromkeys([*specs, *bases]) if path.is_file()
    }
    return {"sources": texts, "code_diff": provenance.code_diff()}


def _name(path: Path) -> str:
    """From the repository, where it lies in it."""
    path = path.resolve()
    return path.relative_to(SOURCE.resolve()).as_posix() if path.is_relative_to(SOURCE.resolve()) else str(path)
