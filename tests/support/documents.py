"""README and docs as tests read them: their code blocks, their commands, and a small checkout in which those run."""

from __future__ import annotations

import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from support.paths import ROOT

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "slurm" / "README.md")
BLOCK = re.compile(r"^```(\w+)?(?: (\w+)(?:=(\S+))?)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# What makes a tiny run shorter still: (file, text, replacement). The commands of the pages stay as they are.
SHORTER = (
    ("bench/config/schema.py", r'"steps": 600, "batch": 8', '"steps": 4, "batch": 2'),
    ("bench/config/schema.py", r'"warmup_steps": 20', '"warmup_steps": 1'),
    ("bench/config/schema.py", r'"tiny": \{"scenes": 32\}', '"tiny": {"scenes": 1}'),
    ("bench/profiling/step_profile.py", r"WARM_UP, WINDOW = 3, 10", "WARM_UP, WINDOW = 1, 2"),
    ("bench/profiling/inference.py", r"WARM_UP, REPEATS = 2, 10", "WARM_UP, REPEATS = 1, 2"),
    ("bench/profiling/trace.py", r"TIMED, WARM_UP, TRACED = 10, 2, 3", "TIMED, WARM_UP, TRACED = 2, 1, 1"),
    ("bench/data/sources/procedural.py", r'"training_scenes": 400', '"training_scenes": 16'),
    ("bench/data/sources/procedural.py", r'"evaluation_scenes": 32', '"evaluation_scenes": 16'),
    ("ablations/search.yaml", r"trials: 14", "trials: 1"),
    ("ablations/search.yaml", r"steps: 80", "steps: 4"),
    ("ablations/my_search.yaml", r"trials: 2", "trials: 1"),
)  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A fenced code block: ```language mark=value."""

    page: Path
    language: str
    mark: str
    value: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The lines of a bash block without comments."""
        return [line for raw in self.text.splitlines() if (line := raw.partition("  #")[0].partition(" # ")[0].strip())]


def blocks(page: Path) -> list[Block]:
    matches = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [Block(page, language, mark, value, text) for language, mark, value, text in matches]


def checkout(folder: Path) -> Path:
    """A copy of the source with the files of docs/extending.md and shorter tiny runs."""
    ignored = shutil.ignore_patterns("__pycache__", ".pytest_cache", "test_documents.py")
    for name in ("bench", "models", "ablations", "slurm", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("pyproject.toml", "constraints.txt", "Makefile", "README.md"):
        shutil.copy(ROOT / name, folder / name)
    for block in blocks(ROOT / "docs" / "extending.md"):
        if block.mark == "file":
            (folder / block.value).write_text(block.text, encoding="utf-8")
    for name, pattern, replacement in SHORTER:
        text, count = re.subn(pattern, replacement, (folder / name).read_text(encoding="utf-8"))
        if count:
            (folder / name).write_text(text, encoding="utf-8")
        else:
            raise AssertionError(f"{name} has no {pattern}: update SHORTER in tests/support/documents.py")
    return folder


def environment() -> dict[str, str]:
    """With the interpreter of the tests first on PATH; the checkout's packages are found from its folder."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return own | {"PATH": path, "PYTHONPATH": ".:tests", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
