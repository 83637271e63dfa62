"""Runs that start from other runs: parents found by name, ids given parents first, equal runs merged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from bench.config.merge import State
from bench.config.read import Problems, did_you_mean
from bench.config.run_id import run_id
from bench.config.schema import FromRun, RunSpec
from models.ead import PACKAGES


@dataclass
class PendingRun:
    """A run on its way: resolved and checked, without its id."""

    spec: RunSpec
    state: State
    settings: Mapping[str, Any]
    name: str | None
    base: str
    origin: str  # the spec file's stem
    where: str  # of what sweeps it
    label: str = ""
    id: str = ""
    parents: tuple[str, ...] = ()


def identify(drafts: Sequence[PendingRun], problems: Problems) -> None:
    """Fill in ids, parents first; a parent is another run of the sweep, by its name or label."""
    for draft in drafts:
        _identify(draft, drafts, problems, ())


def _identify(
    draft: PendingRun, drafts: Sequence[PendingRun], problems: Problems, children: tuple[PendingRun, ...]
) -> None:
    if draft.id:
        return
    for field in fields(draft.spec.init):
        wanted = getattr(draft.spec.init, field.name)
        if not isinstance(wanted, FromRun):
            continue
        where = draft.state[f"init.{field.name}.run"].where
        parent = _parent(wanted.run, draft, drafts, where, problems)
        if parent is None:
            continue
        if parent is draft or parent in children:
            problems.add(where, f"{wanted.run} starts from this run, which starts from it")
            continue
        _identify(parent, drafts, problems, (*children, draft))
        for part in PACKAGES if field.name == "model" else (field.name,):
            if (theirs := getattr(parent.spec.model, part)) != (ours := getattr(draft.spec.model, part)):
                problems.add(
                    where, f"{wanted.run} has another {part} ({theirs.to_dict()}) than this run ({ours.to_dict()})"
                )
        init = replace(draft.spec.init, **{field.name: replace(wanted, id=parent.id)})
        draft.spec = replace(draft.spec, init=init)
        draft.parents += (parent.id,)
    draft.id = run_id(draft.spec)


def _parent(
    name: str, child: PendingRun, drafts: Sequence[PendingRun], where: str, problems: Problems
) -> PendingRun | None:
    """The run of that name; of several, the one with the child's seed."""
    found = [draft for draft in drafts if name in (draft.name, draft.label)]
    if len(found) > 1:
        found = [draft for draft in found if draft.spec.seed == child.spec.seed]
    if len(found) == 1:
        return found[0]
    names = list(dict.fromkeys(draft.name or draft.label for draft in drafts))
    if found:
        problems.add(
            where, f"{name} is {len(found)} runs of this sweep: name one of {', '.join(d.label for d in found)}"
        )
    else:
        problems.add(where, f"no run {name!r} in this sweep{did_you_mean(name, names)}; it has {', '.join(names)}")
    return None


def merge(drafts: Sequence[PendingRun], overridden: Collection[str], problems: Problems) -> list[PendingRun]:
    """One draft an id. Equal runs of two files are one run; equal runs of one file are a mistake, unless the command
    line overrides what tells them apart."""
    first: dict[str, PendingRun] = {}
    for draft in drafts:
        same = first.setdefault(draft.id, draft)
        if same is draft or same.origin != draft.origin or (overridden and same.base != draft.base):
            continue
        if any(_related(key, swept) for key in overridden for swept in draft.settings):
            continue
        differ = [key for key in draft.settings if draft.settings[key] != same.settings.get(key)]
        what = f"{', '.join(differ)} makes no difference between them" if differ else "it is listed twice"
        problems.add(draft.where, f"two runs are the same run ({same.label!r} and {draft.label!r}): {what}")
    return list(first.values())


def _related(key: str, other: str) -> bool:
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def unique_labels(drafts: Sequence[PendingRun]) -> None:
    """Labels that two files share get the file's name in front, and what is left its id behind."""
    for rename in ("{0.origin}: {0.label}", "{0.label} ({0.id})"):
        counts = Counter(draft.label for draft in drafts)
        for draft in drafts:
            if counts[draft.label] > 1:
                draft.label = rename.format(draft)
