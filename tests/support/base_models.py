"""The models of ablations/base, whatever terms their losses have."""

from __future__ import annotations

import re
from pathlib import Path

from bench.config import load
from models.ead import EADSpec
from support.paths import ROOT

BASES = ROOT / "ablations" / "base"


def base_model(name: str, folder: Path, scale: str = "paper", changes: list[str] | None = None) -> EADSpec:
    """The model of a base at a scale, with settings changed as on a command line."""
    path = folder / "base" / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(re.sub(r"losses: \{.*\}", "losses: {mse: 1.0}", (BASES / path.name).read_text()))
    (run,) = load(path, ["train.geometry_first=0", *(changes or [])], scale).runs
    return run.spec.model
