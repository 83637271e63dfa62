"""What it cost to train what a run starts from: other runs of its sweep, and the runs that made shipped parts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from bench.analysis.sweep_results import SweepRun
from bench.common.paths import SOURCE

COLUMN, HEADING = "pretraining_tflop", "Pretraining [TFLOP]"
DEFINITION = (
    f"{HEADING}: training of the runs that a run starts from, and of the run that made a part that ships (its card): "
    "Forward × 3, for forward and backward passes, × scenes of a step × steps, without rendering and losses; 10^12. It "
    "is no part of the run's own steps and time. Empty from scratch, and where that training was not counted, as of "
    "published checkpoints."
)


def tflop(run: SweepRun, runs: Mapping[str, SweepRun]) -> float | None:
    """Of all that the run starts from, directly or not, each counted once; None without any, and if one is unknown.
    `runs`: those of the sweep by id."""
    costs = dict(_costs(run, runs))
    known = [cost for cost in costs.values() if cost is not None]
    return sum(known) if costs and len(known) == len(costs) else None


def _costs(run: SweepRun, runs: Mapping[str, SweepRun]) -> Iterator[tuple[str, float | None]]:
    """(what it starts from, 10¹² operations of its training) for each part, then for what that starts from."""
    for source in (run.line.get("spec") or {}).get("init", {}).values():
        if source == "scratch":
            continue
        if "shipped" in source:
            yield source["sha256"], _training_of_shipped(source)
        elif parent := runs.get(source.get("id")):
            yield parent.id, _training(parent)
            yield from _costs(parent, runs)
        else:
            yield str(source), None


def _training(run: SweepRun) -> float | None:
    """By the profile of the run itself."""
    profile = next(iter(run.folder.profiles().values()), {})
    return _operations(profile | run.line["spec"]["train"])


def _training_of_shipped(source: Mapping[str, str]) -> float | None:
    """By its card, if that is the card of these weights and says so."""
    path = SOURCE / "models" / "pretrained" / f"{source['shipped']}.json"
    card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    facts = card.get("facts", {}) if card.get("sha256") == source["sha256"] else {}
    return _operations(facts)


def _operations(known: Mapping[str, Any]) -> float | None:
    gflop: float | None = known.get("forward_gflop")
    return None if gflop is None else 3 * gflop * known["batch"] * known["steps"] / 1000
