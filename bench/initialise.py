"""A run's model at step 0: each part from scratch, from a published checkpoint, or from another run of the sweep."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor

from bench.errors import BadInput
from bench.record import RunFolder
from models.ead import EAD
from models.weights import PUBLISHED, WEIGHTS_FILE, WeightsError, fill

if TYPE_CHECKING:
    from bench.spec.schema import RunSpec, Weights


def build(spec: RunSpec, runs: Path | None) -> EAD:
    """The model, drawn from the seed, then filled part by part as `spec.init` says; `runs` holds the other runs.

    Raises BadInput when a source is missing or does not fit: never a silent random initialisation.
    """
    model = spec.model.build(spec.seed)
    for name, part in model.parts().items():
        init = getattr(spec.init, name)
        if init == "scratch":
            continue
        try:
            if hasattr(init, "weights"):
                fill(part, published(name, getattr(spec.model, name).name, init), source=init.weights)
            else:
                fill(part, of_run(name, init.id, runs), source=f"run {init.run} ({init.id})")
        except WeightsError as error:
            raise BadInput(f"init.{name}: {error}") from error
    return model


def published(part: str, choice: str, init: Weights) -> dict[str, Tensor]:
    """A checkpoint's tensors under our keys; its sha256 must be the declared one."""
    if (part, choice) not in PUBLISHED:
        known = ", ".join(f"{p}: {c}" for p, c in PUBLISHED)
        raise BadInput(f"init.{part}: no published checkpoint is known for {part}: {choice} (known: {known})")
    path = Path(init.weights)
    if not path.is_file():
        raise BadInput(f"init.{part}: {path} is not there; put the checkpoint at that path, or init.{part}=scratch")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if init.sha256 is None:
        raise BadInput(f"init.{part}: declare what {path} holds, so that the run's id knows it: sha256: {found}")
    if found != init.sha256:
        raise BadInput(f"init.{part}: {path} has sha256 {found}, the spec declares {init.sha256}")
    return PUBLISHED[part, choice](_read(path))


def of_run(part: str, run_id: str, runs: Path | None) -> dict[str, Tensor]:
    """One part's tensors of a finished run."""
    folder = (runs or Path()) / run_id
    if RunFolder(folder).training() is None:
        raise BadInput(f"init.{part}: run {run_id} has not finished training")
    state = load_file(folder / WEIGHTS_FILE)
    return {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}


def _read(path: Path) -> dict[str, Tensor]:
    """safetensors, or a torch file read with `weights_only`: nothing pickled is executed."""
    if path.suffix == ".safetensors":
        return load_file(path)
    import argparse

    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds for damaged or unsafe files
        raise BadInput(f"{path} cannot be read as weights alone: {error}") from error
    state: dict[str, Tensor] = content.get("model", content)
    return state
