"""Job arrays: one for the runs without pending parents, and one for each set of parents that runs depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.execution.launcher import Task
from bench.runs.folder import RunFolder


@dataclass
class Group:
    """Tasks of one array, and the ids of the runs whose jobs must have ended before it starts."""

    needs: tuple[str, ...]
    tasks: list[Task] = field(default_factory=list)


def group_tasks(pending: Sequence[Task], tasks: Sequence[Task], max_array_size: int | None = None) -> list[Group]:
    """Groups of the pending tasks, parents before their children; a run whose parents are trained needs nothing.

    A group has at most `max_array_size` tasks: SLURM refuses larger arrays (MaxArraySize of slurm.conf).
    """
    by_id = {task.id: task for task in tasks}
    by_needs: dict[tuple[str, ...], list[Task]] = {}
    for task in sorted(pending, key=lambda task: _depth(task, by_id)):
        untrained = [p for p in task.parents if RunFolder(task.folder.path.parent / p).training() is None]
        needs = tuple(sorted(parent for parent in untrained if parent in by_id))
        by_needs.setdefault(needs, []).append(task)
    size = max_array_size or max(1, len(pending))
    return [Group(needs, group[i : i + size]) for needs, group in by_needs.items() for i in range(0, len(group), size)]


def _depth(task: Task, tasks: dict[str, Task]) -> int:
    return 1 + max((_depth(tasks[parent], tasks) for parent in task.parents if parent in tasks), default=-1)
