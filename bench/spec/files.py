"""The files of the user's that a spec needs: absent ones are a red line in a dry run and an error at the start."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from pathlib import Path

from bench.errors import BadInput
from bench.spec.schema import RunSpec, Weights


def weight_files(spec: RunSpec) -> dict[str, Weights]:
    """Part → the checkpoint file that initialises it."""
    values = {field.name: getattr(spec.init, field.name) for field in fields(spec.init)}
    return {part: value for part, value in values.items() if isinstance(value, Weights)}


def missing_files(spec: RunSpec) -> list[str]:
    """What stands in the way of starting, one sentence each; contents are not read."""
    found = []
    for part, init in weight_files(spec).items():
        what = (
            [] if Path(init.weights).is_file() else [f"no file {init.weights} (init.{part}.weights=FILE names another)"]
        )
        what += [f"init.{part}.sha256=… is not given"] if init.sha256 is None else []
        found += [f"init.{part}: {', '.join(what)}"] if what else []
    return found


def verify_files(spec: RunSpec) -> None:
    """Raise BadInput unless every weight file is there and is the declared one."""
    for part, init in weight_files(spec).items():
        path = Path(init.weights)
        if not path.is_file():
            raise BadInput("\n".join(missing_files(spec)))
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        if init.sha256 is None:
            raise BadInput(
                f"init.{part}.sha256 is not declared. {path} has {actual}: if that is the file you mean, "
                f"run again with init.{part}.sha256={actual}"
            )
        if actual != init.sha256.lower():
            raise BadInput(f"{path} is not the declared file: its sha256 is {actual}, the spec says {init.sha256}")
