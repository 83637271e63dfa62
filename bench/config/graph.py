"""Runs that start from other runs: parents by name, ids given parents first, equal runs merged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from bench.config.merge import State
from bench.config.read import Problems, did_you_mean
from bench.config.run_id import costs, run_id
from bench.config.schema import FromRun, RunSpec
from models import transfer
from models.ead import PACKAGES


@dataclass
class PendingRun:
    """A run on its way: resolved and checked, without its id."""

    spec: RunSpec
    state: State
    settings: Mapping[str, Any]
    name: str | None
    base: str
    spec_name: str  # the spec file's stem
    where: str  # of what sweeps it
    label: str = ""
    id: str = ""
    parents: tuple[str, ...] = ()


def identify(
    run: PendingRun, runs: Sequence[PendingRun], problems: Problems, children: tuple[PendingRun, ...] = ()
) -> None:
    """Fill in a run's id, its parents' before; a parent is another of the `runs`, by its name or label."""
    if run.id:
        return
    for field in fields(run.spec.init):
        init = getattr(run.spec.init, field.name)
        if not isinstance(init, FromRun):
            continue
        where = run.state[f"init.{field.name}.run"].where
        parent = _parent(init.run, run, runs, where, problems)
        if parent is None:
            continue
        if parent is run or parent in children:
            problems.add(where, f"{init.run} starts from this run, which starts from it")
            continue
        identify(parent, runs, problems, (*children, run))
        for part in PACKAGES if field.name == "model" else (field.name,):
            if text := transfer.problem(part, run.spec.model, parent.spec.model, exact=run.spec.train.steps == 0):
                problems.add(where, f"{init.run} {text}")
        run.spec = replace(run.spec, init=replace(run.spec.init, **{field.name: replace(init, id=parent.id)}))
        run.parents += (parent.id,)
    run.id = run_id(run.spec)


def _parent(
    name: str, child: PendingRun, runs: Sequence[PendingRun], where: str, problems: Problems
) -> PendingRun | None:
    """The run of that name; of several, the one with the child's seed."""
    matches = [run for run in runs if name in (run.name, run.label)]
    if len(matches) > 1:
        matches = [run for run in matches if run.spec.seed == child.spec.seed]
    if len(matches) == 1:
        return matches[0]
    names = list(dict.fromkeys(run.name or run.label for run in runs))
    if matches:
        labels = ", ".join(run.label for run in matches)
        problems.add(where, f"{name} is {len(matches)} runs of this sweep: name one of {labels}")
    else:
        problems.add(where, f"no run {name!r} in this sweep{did_you_mean(name, names)}; it has {', '.join(names)}")
    return None


def merge(
    runs: Sequence[PendingRun], overridden: Mapping[str, str], problems: Problems
) -> tuple[list[PendingRun], list[tuple[str, str]]]:
    """One run an id, and the labels of those that became one with an earlier one of their file.

    Equal runs of two files are one run. Equal runs of one file are a mistake, unless the command line (`overridden`:
    key → where) removes their differences and they have no names of their own.
    """
    first: dict[str, PendingRun] = {}
    merged = []
    for run in runs:
        same = first.setdefault(run.id, run)
        if same is run or same.spec_name != run.spec_name:
            continue
        is_overridden = (overridden and same.base != run.base) or any(
            overlap(key, swept) for key in overridden for swept in run.settings
        )
        if not is_overridden:
            differ = [key for key in run.settings if run.settings[key] != same.settings.get(key)]
            reason = f"{', '.join(differ)} makes no difference between them" if differ else "it is listed twice"
            if costs(run.spec) != costs(same.spec):
                reason += " but in cost; to compare costs, `set: {study: cost}`"
            problems.add(run.where, f"two runs are the same run ({same.label!r} and {run.label!r}): {reason}")
        merged.append((run.name or run.label, same.name or same.label))
    names = {run.name for run in runs}
    lost = list(dict.fromkeys((one, other) for one, other in merged if {one, other} <= names and one != other))
    if lost and overridden and not problems:
        equal = "; ".join(f"{one!r} equals {other!r}" for one, other in lost)
        remedy = "drop the override of the fields in which they differ, or remove one of them from the spec"
        problems.add(" ".join(overridden.values()), f"{len(runs)} → {len(first)} runs: {equal}: {remedy}")
    return list(first.values()), merged


def overlap(key: str, other: str) -> bool:
    """Whether one of two dotted keys is the other or lies in it."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def unique_labels(runs: Sequence[PendingRun]) -> None:
    """Labels that two files share get the file's name in front, and what is still shared its id behind."""
    for rename in ("{0.spec_name}: {0.label}", "{0.label} ({0.id})"):
        counts = Counter(run.label for run in runs)
        for run in runs:
            if counts[run.label] > 1:
                run.label = rename.format(run)
