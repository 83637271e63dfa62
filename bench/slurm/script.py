"""A Cluster → the parameters that submitit passes to sbatch, and the text of the batch script."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.common.compat import SUBMITIT_JOB_MODULE, sbatch_script
from bench.common.labels import file_name
from bench.slurm.cluster import Cluster
from bench.slurm.context import JOB_START_MARKER, JOBS

YEAR = 60 * 24 * 365  # minutes
# variables of the submitter that jobs need even with `sbatch: {export: NONE}`
EXPORTED = ("EAD_BENCH_CACHE", "EAD_BENCH_DATA_MEMORY_GIB")


@dataclass(frozen=True)
class Script:
    """The batch scripts of one submission."""

    cluster: Cluster
    name: str  # of the sweep; squeue lists it
    folder: Path  # of the submission, absolute
    code: Path  # the snapshot
    threads: int

    @property
    def jobs(self) -> Path:
        return self.folder / JOBS

    @property
    def python(self) -> str:
        """The interpreter, quoted for the shell; a cluster file may give a command of several words."""
        return self.cluster.python or shlex.quote(sys.executable)

    def runs(self, group: int, dependency: str | None) -> dict[str, Any]:
        """submitit's parameters for an array of runs."""
        cluster = self.cluster
        gres = ":".join(filter(None, ("gpu", cluster.gpu_type, str(cluster.gpus)))) if cluster.gpus else None
        return {
            **self._common(self.name, dependency),
            "partition": cluster.partition,
            "qos": cluster.qos,
            "time": cluster.minutes,
            "nodes": cluster.nodes,
            "ntasks_per_node": cluster.tasks_per_node,
            "cpus_per_task": cluster.cpus,
            "mem": cluster.memory,
            "gres": gres,
            "constraint": cluster.constraint,
            "nodelist": cluster.nodelist,
            "exclude": cluster.exclude,
            "array_parallelism": cluster.array_parallelism,
            "signal_delay_s": cluster.warning_s,
            "setup": [*self._setup(self.threads), "trap : TERM"],
            "teardown": self._teardown(group),
            # Since SLURM 22.05 srun does not inherit --cpus-per-task from its job.
            "srun_args": [
                "--kill-on-bad-exit=1",
                "--open-mode=append",
                f"--cpus-per-task={cluster.cpus}",
                *cluster.srun,
            ],
        }

    def collect(self, dependency: str) -> dict[str, Any]:
        """submitit's parameters for the collect job."""
        collect = self.cluster.collect
        return {
            **self._common(f"{self.name}-collect", dependency),
            "partition": collect.partition or self.cluster.partition,
            "qos": collect.qos or self.cluster.qos,
            "time": collect.minutes,
            "nodes": 1,
            "ntasks_per_node": 1,
            "cpus_per_task": collect.cpus,
            "mem": collect.memory,
            "setup": self._setup(collect.cpus),
            "srun_args": ["--open-mode=append", f"--cpus-per-task={collect.cpus}"],
        }

    def local(self) -> dict[str, Any]:
        """submitit's parameters on a workstation: no time limit; bench.slurm.slots assigns the GPUs."""
        return {"tasks_per_node": self.cluster.tasks_per_node, "timeout_min": YEAR}

    def text(self, parameters: Mapping[str, Any], count: int = 1) -> str:
        """The batch script that submitit would submit; works without SLURM."""
        command = f"{self.python} -u -m {SUBMITIT_JOB_MODULE} {shlex.quote(str(self.jobs))}"
        return sbatch_script(command, self.jobs, {**parameters, "map_count": count if count > 1 else None})

    def _common(self, name: str, dependency: str | None) -> dict[str, Any]:
        extra = {"requeue": True, **self.cluster.sbatch}
        if self.cluster.reservation:
            extra["reservation"] = self.cluster.reservation
        return {"job_name": file_name(name), "account": self.cluster.account, "dependency": dependency, "wckey": None,
                "additional_parameters": extra}  # fmt: skip

    def _setup(self, threads: int) -> list[str]:
        """The user's lines, then ours: Python imports from the snapshot first, never from the current folder."""
        exports = [f"export {name}={shlex.quote(os.environ[name])}" for name in EXPORTED if name in os.environ]
        start = "${SLURM_JOB_ID} start ${SLURM_RESTART_COUNT:-0} on $(hostname -s) at $(date -Is)"
        return [
            f'echo "{JOB_START_MARKER} {start}" >&2',
            *self.cluster.environment,
            f"export PYTHONPATH={shlex.quote(str(self.code))}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1",
            f"export OMP_NUM_THREADS={threads} OMP_WAIT_POLICY=PASSIVE",
            *exports,
        ]

    def _teardown(self, group: int) -> list[str]:
        """The postmortem of a failed step: the batch script outlives processes that were killed without a status."""
        command = [self.python, "-m", "bench.slurm.postmortem", shlex.quote(str(self.folder)), str(group)]
        return [
            "code=$?",
            f'[ $code -eq 0 ] || {" ".join(command)} "${{SLURM_ARRAY_TASK_ID:-0}}" $code',
            "exit $code",
        ]
