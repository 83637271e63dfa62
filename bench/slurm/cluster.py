"""`slurm/NAME.yaml` → a typed Cluster; every error with file and line, all at once."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench.common.errors import ConfigError
from bench.config.convert import TypeMismatch, convert, field_types
from bench.config.merge import SCALES
from bench.config.read import Node, Problems, did_you_mean, read

log = logging.getLogger(__name__)

TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?$")
MEMORY = re.compile(r"0$|\d+[KMGT]B?$")
RESERVED_OPTIONS = {
    "partition": "partition", "account": "account", "qos": "qos", "time": "time", "nodes": "nodes",
    "gres": "gpus", "gpus": "gpus", "gpus-per-node": "gpus", "gpus-per-task": "gpus", "ntasks": "tasks",
    "ntasks-per-node": "tasks", "cpus-per-task": "cpus", "mem": "memory", "constraint": "constraint",
    "exclude": "exclude", "nodelist": "nodelist", "array": "array_parallelism", "signal": "warning_s",
    "reservation": "reservation",
}  # fmt: skip
SET_BY_BENCH = (
    "output",
    "error",
    "open-mode",
    "requeue",
    "no-requeue",
    "dependency",
    "job-name",
    "wrap",
    "parsable",
    "chdir",
)


@dataclass(frozen=True)
class Collect:
    """Resources of the last job, which writes tables and figures; defaults: the runs' partition and QOS, no GPU."""

    partition: str | None = None
    qos: str | None = None
    time: str | int = 30
    cpus: int = 2
    memory: str | None = None

    @property
    def minutes(self) -> int:
        return minutes(self.time)


@dataclass(frozen=True)
class Cluster:
    """Resources of one run and limits of a sweep; docs/cluster.md documents each key."""

    path: Path
    executor: Literal["slurm", "local"] = "slurm"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    reservation: str | None = None
    constraint: str | None = None
    nodelist: str | None = None
    exclude: str | None = None
    time: str | int = 60
    nodes: int = 1
    gpus: int = 0  # per node
    gpu_type: str | None = None
    tasks: int | None = None  # per node; default: one per GPU
    cpus: int = 1  # per task
    memory: str | None = None  # per node; "0": all of it, as in SLURM
    array_parallelism: int = 64
    warning_s: int = 180
    max_timeouts: int = 20
    max_crash_requeues: int = 3
    environment: tuple[str, ...] = ()
    scratch: str | None = None
    python: str | None = None
    sbatch: Mapping[str, str | bool] = field(default_factory=dict)
    srun: tuple[str, ...] = ()
    collect: Collect = Collect()

    @property
    def minutes(self) -> int:
        return minutes(self.time)

    @property
    def tasks_per_node(self) -> int:
        return self.tasks or max(1, self.gpus)

    @property
    def ranks(self) -> int:
        """Processes of one run."""
        return self.nodes * self.tasks_per_node


RENAMED_KEYS = {"max_losses": "max_crash_requeues"}  # old → new; the old ones are still read
SLURM_ONLY = ("partition", "account", "qos", "reservation", "constraint", "nodelist", "exclude", "nodes", "gpu_type",
              "memory", "sbatch", "srun", "time", "max_crash_requeues")  # fmt: skip


def load(path: Path, scale: str) -> Cluster:
    """Read a cluster file for sweeps of `scale`. Raises ConfigError with all problems at once."""
    problems = Problems()
    root = _with_new_names(read(path, problems).root.value, problems)
    scales = root.pop("scales", None)
    nodes = root | _at_scale(scales, scale, problems)
    values = _section(Cluster, nodes, ("path",), problems, more=("scales",))
    if isinstance(nodes.get("collect"), Node) and isinstance(values.get("collect"), dict):
        values["collect"] = Collect(**_section(Collect, nodes["collect"].value, (), problems, owner="collect."))
    if isinstance(values.get("sbatch"), dict):
        values["sbatch"] = _sbatch(nodes["sbatch"], problems)
    _check(values, nodes, problems)
    if problems:
        raise ConfigError(problems.in_order())
    return Cluster(path, **values)


def minutes(time: str | int) -> int:
    """A time in any of SLURM's formats (sbatch(1), --time), rounded up to whole minutes. Raises ValueError."""
    if isinstance(time, int):
        return time
    match = TIME.match(time)
    if not match:
        raise ValueError(time)
    days, first, second, third = (int(word) if word else None for word in match.groups())
    assert first is not None
    if days is not None:  # days-hours[:minutes[:seconds]]
        seconds = ((days * 24 + first) * 60 + (second or 0)) * 60 + (third or 0)
    elif third is not None:  # hours:minutes:seconds
        seconds = (first * 60 + (second or 0)) * 60 + third
    else:  # minutes[:seconds]
        seconds = first * 60 + (second or 0)
    return -(-seconds // 60)


def _at_scale(scales: Node | None, scale: str, problems: Problems) -> dict[str, Node]:
    """The settings of one scale. The keys of the other scales are validated too."""
    if scales is None:
        return {}
    if not isinstance(scales.value, dict):
        problems.add(scales.where, f"scales is a mapping from {', '.join(SCALES)} to what they change")
        return {}
    for name, node in scales.value.items():
        if name not in SCALES:
            problems.add(node.where, f"no scale {name}{did_you_mean(name, SCALES)}; it may be {', '.join(SCALES)}")
        elif not isinstance(node.value, dict):
            problems.add(node.where, f"the scale {name} is a mapping of keys to values")
        else:
            renamed = _with_new_names(node.value, problems)
            _section(Cluster, renamed, ("path", "executor"), problems, owner=f"scales.{name}.")
    selected = scales.value.get(scale)
    if selected is None or not isinstance(selected.value, dict):
        return {}
    settings = _with_new_names(selected.value, problems, warn=False)
    return {key: node for key, node in settings.items() if key in field_types(Cluster)}


def _with_new_names(nodes: Mapping[str, Node], problems: Problems, warn: bool = True) -> dict[str, Node]:
    """Keys of older versions under their present names, with a warning each."""
    renamed: dict[str, Node] = {}
    for key, node in nodes.items():
        name = RENAMED_KEYS.get(key, key)
        if name in renamed:
            problems.add(node.where, f"{key} is the old name of {name}, which is given as well: remove {key}")
        if name != key and warn:
            log.warning("%s: %s is now called %s; the old name still works", node.where, key, name)
        renamed[name] = node
    return renamed


def _section(
    cls: type, nodes: Mapping[str, Node], hidden: tuple[str, ...], problems: Problems, owner: str = "",
    more: tuple[str, ...] = (),
) -> dict[str, Any]:  # fmt: skip
    """Known keys, their values converted to the declared types; `sbatch` and `collect` stay mappings."""
    types = {name: kind for name, kind in field_types(cls).items() if name not in hidden}
    values: dict[str, Any] = {}
    for key, node in nodes.items():
        if key not in types:
            known = (*types, *more)
            hint = did_you_mean(key, known) or f"; there are {', '.join(known)}"
            problems.add(node.where, f"unknown key {owner}{key}{hint}")
        elif key in ("sbatch", "collect"):
            if not isinstance(node.value, dict):
                problems.add(node.where, f"{owner}{key} is a mapping of keys to values")
            else:
                values[key] = node.value
        else:
            try:
                values[key] = convert(types[key], node.plain(), node.text)
            except TypeMismatch as error:
                problems.add(node.where, f"{owner}{key}: {error}")
    return values


def _sbatch(node: Node, problems: Problems) -> dict[str, str | bool]:
    """Extra options of sbatch, keyed by their long names without dashes."""
    options: dict[str, str | bool] = {}
    for key, child in node.value.items():
        name = key.replace("_", "-")
        if name in RESERVED_OPTIONS:
            problems.add(child.where, f"sbatch.{key}: use the key {RESERVED_OPTIONS[name]} instead")
        elif name in SET_BY_BENCH:
            problems.add(child.where, f"sbatch.{key} is set by EAD-Bench itself: remove it")
        elif name.startswith("-") or not isinstance(child.value, str | int | float | bool):
            problems.add(child.where, f"sbatch.{key}: write the option's long name without dashes, and one value")
        else:
            options[name] = child.value if child.value is True else str(child.value)
    return options


MINIMUMS = {"nodes": 1, "gpus": 0, "tasks": 1, "cpus": 1, "array_parallelism": 1, "warning_s": 10, "max_timeouts": 0,
          "max_crash_requeues": 0}  # fmt: skip


def _check(values: dict[str, Any], nodes: Mapping[str, Node], problems: Problems) -> None:
    """Constraints that types do not express."""

    def add_problem(key: str, text: str) -> None:
        problems.add(nodes[key].where, f"{key}: {text}")

    _check_amounts(nodes, "", problems)
    if "collect" in values:
        _check_amounts(nodes["collect"].value, "collect.", problems)
    tasks, gpus = values.get("tasks"), values.get("gpus") or 0
    if tasks and gpus and tasks != gpus:
        add_problem("tasks", f"{tasks} tasks for {gpus} GPUs a node: one task drives one GPU; remove tasks")
    if values.get("gpu_type") and "gpus" not in values:
        add_problem("gpu_type", "set the number of GPUs per node as well: gpus: N")
    warning = values.get("warning_s", Cluster.warning_s)
    if "time" in values and 0 < (_minutes(values["time"]) or 0) * 60 <= warning:
        add_problem("time", f"{values['time']} is not longer than warning_s, {warning} s")
    for line in values.get("environment", ()):
        if line.lstrip().startswith("#SBATCH"):
            add_problem(
                "environment", f"{line!r} is an option of sbatch, not a shell command: move it to the key sbatch"
            )
    if values.get("executor") == "local":
        for key in SLURM_ONLY:
            if key in values:
                add_problem(key, "has no effect with executor: local; remove it")


def _check_amounts(nodes: Mapping[str, Node], owner: str, problems: Problems) -> None:
    """Validate numbers, times and memory of the cluster or of its section `collect`."""
    for key, node in nodes.items():
        value = node.value
        if key in MINIMUMS and isinstance(value, int) and value < MINIMUMS[key]:
            problems.add(node.where, f"{owner}{key}: {value} is less than {MINIMUMS[key]}")
        if key == "time" and isinstance(value, str | int) and not _minutes(value):
            hint = "2-00:00:00 (days-hours:minutes:seconds), 24:00:00 or 90"
            problems.add(node.where, f"{owner}time: {value!r} is not a time; examples: {hint}")
        if key == "memory" and value is not None and not MEMORY.match(str(value)):
            text = f"{value!r} is not an amount of memory; examples: 480G, 64000M, 0 (all of the node)"
            problems.add(node.where, f"{owner}memory: {text}")


def _minutes(time: str | int) -> int | None:
    try:
        return minutes(time)
    except ValueError:
        return None
