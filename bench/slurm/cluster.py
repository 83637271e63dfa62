"""`slurm/NAME.yaml` → a typed Cluster; every error with file and line, all at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench.common.errors import ConfigError
from bench.config.convert import TypeMismatch, convert, field_types
from bench.config.merge import SCALES
from bench.config.read import (
    Node,
    Problems,
    did_you_mean,
    read,
)

TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?$")
MEMORY = re.compile(r"(\d+)([KMGT])B?$")
RESERVED_OPTIONS = {
    "partition": "partition", "account": "account", "qos": "qos", "time": "time", "nodes": "nodes",
    "gres": "gpus", "gpus": "gpus", "gpus-per-node": "gpus", "gpus-per-task": "gpus", "ntasks": "tasks",
    "ntasks-per-node": "tasks", "cpus-per-task": "cpus", "mem": "memory", "constraint": "constraint",
    "exclude": "exclude", "nodelist": "nodelist", "array": "array_parallelism", "signal": "warning_s",
    "reservation": "reservation",
}  # fmt: skip
FIXED = ("output", "error", "open-mode", "requeue", "no-requeue", "dependency", "job-name", "wrap", "parsable", "chdir")


@dataclass(frozen=True)
class Collect:
    """The small job at the end that makes tables and figures; what is not given is as for the runs, without GPUs."""

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
    """What to ask for, for one run; slurm/README.md says what each key means."""

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
    gpus: int = 0  # a node
    gpu_type: str | None = None
    tasks: int | None = None  # a node; one a GPU if not given
    cpus: int = 1  # a task
    memory: str | None = None  # a node
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


SLURM_ONLY = ("partition", "account", "qos", "reservation", "constraint", "nodelist", "exclude", "nodes", "gpu_type",
              "memory", "sbatch", "srun", "time", "max_losses")  # fmt: skip


def load(path: Path, scale: str) -> Cluster:
    """The cluster as a sweep of that scale uses it. Raises ConfigError."""
    problems = Problems()
    root = dict(read(path, problems).root.value)
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
    """SLURM's ways to write a time, rounded up to whole minutes. Raises ValueError."""
    if isinstance(time, int):
        return time
    found = TIME.match(time)
    if not found:
        raise ValueError(time)
    days, first, second, third = (int(word) if word else None for word in found.groups())
    assert first is not None
    if days is not None:  # days-hours[:minutes[:seconds]]
        seconds = ((days * 24 + first) * 60 + (second or 0)) * 60 + (third or 0)
    elif third is not None:  # hours:minutes:seconds
        seconds = (first * 60 + (second or 0)) * 60 + third
    else:  # minutes[:seconds]
        seconds = first * 60 + (second or 0)
    return -(-seconds // 60)


def _at_scale(scales: Node | None, scale: str, problems: Problems) -> dict[str, Node]:
    """What the scale changes; the others are checked for their keys all the same."""
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
            _section(Cluster, node.value, ("path", "executor"), problems, owner=f"scales.{name}.")
    chosen = scales.value.get(scale)
    found = chosen.value if chosen is not None and isinstance(chosen.value, dict) else {}
    return {key: node for key, node in found.items() if key in field_types(Cluster)}


def _section(
    cls: type, nodes: Mapping[str, Node], hidden: tuple[str, ...], problems: Problems, owner: str = "",
    more: tuple[str, ...] = (),
) -> dict[str, Any]:  # fmt: skip
    """Known keys with values of the declared types; a mapping stays one."""
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
                values[key] = convert(types[key], node.plain())
            except TypeMismatch as error:
                problems.add(node.where, f"{owner}{key}: {error}")
    return values


def _sbatch(node: Node, problems: Problems) -> dict[str, str | bool]:
    """Further options of sbatch, by their long names."""
    found: dict[str, str | bool] = {}
    for key, child in node.value.items():
        name = key.replace("_", "-")
        if name in RESERVED_OPTIONS:
            problems.add(child.where, f"sbatch.{key}: there is a key for it, {RESERVED_OPTIONS[name]}")
        elif name in FIXED:
            problems.add(child.where, f"sbatch.{key} is set by EAD-Bench itself: leave it out")
        elif name.startswith("-") or not isinstance(child.value, str | int | float | bool):
            problems.add(child.where, f"sbatch.{key}: write the option's long name without dashes, and one value")
        else:
            found[name] = child.value if child.value is True else str(child.value)
    return found


MINIMUMS = {"nodes": 1, "gpus": 0, "tasks": 1, "cpus": 1, "array_parallelism": 1, "warning_s": 10, "max_timeouts": 0,
          "max_losses": 0}  # fmt: skip


def _check(values: dict[str, Any], nodes: Mapping[str, Node], problems: Problems) -> None:
    """What types do not say."""

    def wrong(key: str, text: str) -> None:
        problems.add(nodes[key].where, f"{key}: {text}")

    _check_amounts(nodes, "", problems)
    if "collect" in values:
        _check_amounts(nodes["collect"].value, "collect.", problems)
    tasks, gpus = values.get("tasks"), values.get("gpus") or 0
    if tasks and gpus and tasks != gpus:
        wrong("tasks", f"{tasks} tasks for {gpus} GPUs a node: one task drives one GPU; leave tasks out")
    if values.get("gpu_type") and "gpus" not in values:
        wrong("gpu_type", "say how many with gpus")
    warning = values.get("warning_s", Cluster.warning_s)
    if "time" in values and 0 < (_minutes(values["time"]) or 0) * 60 <= warning:
        wrong("time", f"{values['time']} is not longer than warning_s, {warning} s")
    for line in values.get("environment", ()):
        if line.lstrip().startswith("#SBATCH"):
            wrong("environment", f"{line!r} is an option, not a line of shell: put it under sbatch")
    if values.get("executor") == "local":
        for key in SLURM_ONLY:
            if key in values:
                wrong(key, "means nothing to executor: local")


def _check_amounts(nodes: Mapping[str, Node], owner: str, problems: Problems) -> None:
    """Numbers, times and memory, of the cluster or of its section `collect`."""
    for key, node in nodes.items():
        value = node.value
        if key in MINIMUMS and isinstance(value, int) and value < MINIMUMS[key]:
            problems.add(node.where, f"{owner}{key}: {value} is less than {MINIMUMS[key]}")
        if key == "time" and isinstance(value, str | int) and not _minutes(value):
            hint = "2-00:00:00 (days-hours:minutes:seconds), 24:00:00 or 90"
            problems.add(node.where, f"{owner}time: {value!r} is no time such as {hint}")
        if key == "memory" and isinstance(value, str) and not MEMORY.match(value):
            problems.add(node.where, f"{owner}memory: {value!r} is no amount such as 480G or 64000M")


def _minutes(time: str | int) -> int | None:
    try:
        return minutes(time)
    except ValueError:
        return None
