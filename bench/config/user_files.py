"""The files of the user's that a spec needs: absent ones are a red line in a dry run and an error at the start."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from functools import cache
from pathlib import Path

from bench.common.errors import UserError
from bench.config.schema import RunSpec, WeightsFile
from models.weights import WEIGHTS_FILE


def weight_files(spec: RunSpec) -> dict[str, WeightsFile]:
    """Part (or "model") → the file that initializes it."""
    values = {field.name: getattr(spec.init, field.name) for field in fields(spec.init)}
    return {part: value for part, value in values.items() if isinstance(value, WeightsFile)}


def weight_file(init: WeightsFile) -> Path:
    """The file itself: a run's folder stands for its weights.safetensors."""
    path = Path(init.weights)
    return path / WEIGHTS_FILE if not path.suffix and not path.is_file() else path


def missing_files(spec: RunSpec) -> list[str]:
    """What keeps a run from starting, one sentence each; contents are not read."""
    missing: list[str] = spec.data.missing() if hasattr(spec.data, "missing") else []
    for part, init in weight_files(spec).items():
        reasons = []
        if not weight_file(init).is_file():
            reasons.append(f"no file {weight_file(init)} (init.{part}.weights=FILE names another)")
        if init.sha256 is None:
            reasons.append(f"init.{part}.sha256=… is not given")
        missing += [f"init.{part}: {', '.join(reasons)}"] if reasons else []
    return missing


def verify_files(spec: RunSpec) -> None:
    """Raise UserError unless every weight file is there and is the declared one."""
    for part, init in weight_files(spec).items():
        path = weight_file(init)
        if not path.is_file():
            raise UserError("\n".join(missing_files(spec)))
        stat = path.stat()
        actual = _sha256(path, stat.st_size, stat.st_mtime_ns)
        if init.sha256 is None:
            raise UserError(
                f"init.{part}.sha256 is not declared. {path} has {actual}: if that is the file you mean, "
                f"run again with init.{part}.sha256={actual}"
            )
        if actual != init.sha256.lower():
            raise UserError(
                f"init.{part}: {path} is not the declared file: its sha256 is {actual}, the spec says {init.sha256}"
            )


@cache
def _sha256(path: Path, _size: int, _changed_ns: int) -> str:
    """Once a process for a file that many runs share, unless it changes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
