"""The models of ablations/base."""

from __future__ import annotations

from collections.abc import Sequence

from bench.config import load
from models.ead import EADSpec
from support.paths import ROOT

BASES = ROOT / "ablations" / "base"


def base_model(name: str, scale: str = "paper", changes: Sequence[str] = ()) -> EADSpec:
    """The model of a base at a scale, with settings changed as on a command line."""
    (run,) = load(BASES / f"{name}.yaml", changes, scale).runs
    return run.spec.model
