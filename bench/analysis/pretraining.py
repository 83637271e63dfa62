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
        if "run" in source:
            parent = runs[source["id"]]
            yield parent.id, _training(parent)
            yield from _costs(parent, runs)
        elif "shipped" in source:
            yield source["sha256"], _training_of_shipped(source)
        elif source != "scratch":
            yield source["weights"], None


def _training(run: SweepRun) -> float | None:
    """By the profile of the run itself."""
    gflop = next(iter(run.folder.profiles().values()), {}).get("forward_gflop")
    train = run.line["spec"]["train"]
    return None if gflop is None else _operations(gflop, train["batch"], train["steps"])


def _training_of_shipped(source: Mapping[str, str]) -> float | None:
    """By its card, if that is the card of these weights and says so."""
    path = SOURCE / "models" / "pretrained" / f"{source['shipped']}.json"
    card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    facts = card.get("facts", {}) if card.get("sha256") == source["sha256"] else {}
    return _operations(facts["forward_gflop"], facts["batch"], facts["steps"]) if "forward_gflop" in facts else None


def _operations(forward_gflop: float, batch: int, steps: int) -> float:
    return 3 * forward_gflop * batch * steps / 1000
