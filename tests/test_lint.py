"""The linters' settings: a name that is defined nowhere is an error in every package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT

FOLDERS = sorted({path.parent.relative_to(ROOT) for package in ("bench", "models", "tests")
                  for path in (ROOT / package).rglob("*.py")})  # fmt: skip
CODE = '''"""A module."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def double(images: Float[Tensor, " height"]) -> Undefined:
    """Twice."""
    return 2 * images
'''


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_ruff_reports_an_undefined_name(folder: Path) -> None:
    command = [sys.executable, "-m", "ruff", "check", "--stdin-filename", str(folder / "module.py"), "-"]
    done = subprocess.run(command, input=CODE, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and done.stdout.count("F821") == 1, done.stdout + done.stderr


def test_mypy_reports_an_undefined_name(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(CODE)
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--follow-imports=skip", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert '"Undefined" is not defined' in done.stdout, done.stdout + done.stderr
