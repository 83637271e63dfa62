"""Memory that data readers keep between reads: one byte budget per node, whatever the number of its processes.

The budget is $EAD_BENCH_DATA_MEMORY_GIB, by default an eighth of the node's memory and at most 4 GiB. Every process
gets an equal part: of the ranks of a run (torchrun, srun), of the runs that one command starts at a time, of the
workers of `pack` and `check`. A process's part is divided by kind, see the users of ByteCache.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields, is_dataclass
from threading import Lock
from typing import Any, Generic, TypeVar

import numpy as np

from bench.common.errors import UserError

BUDGET = "EAD_BENCH_DATA_MEMORY_GIB"
PROCESSES = "EAD_BENCH_NODE_PROCESSES"  # set by whatever starts several processes on one node
GIB = 2**30
DEFAULT_GIB, DEFAULT_SHARE = 4.0, 1 / 8
ENTRY = 300  # bytes of an entry beside its key and value

T = TypeVar("T")


def node_budget(environment: Mapping[str, str] = os.environ) -> int:
    """Bytes for all processes of a node. Raises UserError for a value that is no number."""
    if text := environment.get(BUDGET):
        try:
            gib = float(text)
        except ValueError:
            gib = math.nan
        if not 0 <= gib < math.inf:
            raise UserError(f"{BUDGET}={text}: a number of GiB is needed, such as 4 or 0.5")
        return int(gib * GIB)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(min(DEFAULT_GIB * GIB, DEFAULT_SHARE * memory))


def processes_on_node(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes that read data share this node's memory, as far as their starters say."""
    ranks = 1
    if "LOCAL_WORLD_SIZE" in environment:
        ranks = int(environment["LOCAL_WORLD_SIZE"])
    elif "SLURM_PROCID" in environment and (tasks := environment.get("SLURM_STEP_TASKS_PER_NODE")):
        ranks = max(int(count) for count in re.findall(r"\d+", re.sub(r"\(x\d+\)", "", tasks)) or ["1"])
    return max(1, ranks) * max(1, int(environment.get(PROCESSES, "1")))


class ByteCache(Generic[T]):
    """The most recently used values of one kind, in at most `share` of this process's part of the node's budget.

    Keys of several owners differ: owners put `new_owner()` in front. Thread-safe.
    """

    def __init__(self, share: float) -> None:
        self.share, self.bytes = share, 0
        self._entries: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def limit(self) -> int:
        """In bytes."""
        return int(self.share * node_budget() / processes_on_node())

    def get(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The value of a key, computed if it is not there; what `compute` raises is not kept."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key][0]
        value = compute()
        size = memory_size(key) + memory_size(value) + ENTRY
        limit = self.limit
        with self._lock:
            if key not in self._entries and size <= limit:
                self._entries[key] = value, size
                self.bytes += size
            while self.bytes > limit:
                _, (_, freed) = self._entries.popitem(last=False)
                self.bytes -= freed
        return value


def memory_size(value: Any) -> int:
    """Bytes of a value and of what it holds: arrays, containers, dataclasses. Shared parts count each time."""
    if isinstance(value, np.ndarray):
        return sys.getsizeof(value) if value.base is None else sys.getsizeof(value) + value.nbytes
    inside: Any = ()
    if is_dataclass(value):
        inside = [getattr(value, each.name) for each in fields(value)]
    elif isinstance(value, Mapping):
        inside = [*value.keys(), *value.values()]
    elif isinstance(value, tuple | list | set):
        inside = value
    return sys.getsizeof(value) + sum(map(memory_size, inside))


_owners = iter(range(sys.maxsize))


def new_owner() -> int:
    """A number that no other owner of cached values in this process has."""
    return next(_owners)
