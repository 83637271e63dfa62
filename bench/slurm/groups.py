"""Runs that start together: an array for the roots, and one for each set of runs that others start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.execution.launcher import Task
from bench.runs.folder import RunFolder


@dataclass
class Group:
    """Tasks of one array, and the runs whose jobs must have ended before."""

    needs: tuple[str, ...]
    tasks: list[Task] = field(default_factory=list)


def group_tasks(left: Sequence[Task], tasks: Sequence[Task]) -> list[Group]:
    """In an order in which whatever is needed comes first. A run whose parent is trained needs nothing."""
    known = {task.id for task in tasks}
    found: dict[tuple[str, ...], Group] = {}
    for task in sorted(left, key=lambda task: _depth(task, {other.id: other for other in tasks})):
        untrained = [p for p in task.parents if RunFolder(task.folder.path.parent / p).training() is None]
        needs = tuple(sorted(parent for parent in untrained if parent in known))
        found.setdefault(needs, Group(needs)).tasks.append(task)
    return list(found.values())


def _depth(task: Task, tasks: dict[str, Task]) -> int:
    return 1 + max((_depth(tasks[parent], tasks) for parent in task.parents if parent in tasks), default=-1)
