"""A cluster's wishes → what submitit hands to sbatch."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.common.compat import SUBMITIT_JOB_MODULE, sbatch_script
from bench.slurm.cluster import Cluster
from bench.slurm.context import JOB_START_MARKER, JOBS

YEAR = 60 * 24 * 365  # minutes
KEPT = ("EAD_BENCH_CACHE",)  # of the submitter's environment, which sbatch may be told not to pass on


@dataclass(frozen=True)
class Script:
    """How the jobs of one submission are run."""

    cluster: Cluster
    name: str  # the sweep's, shown by squeue
    folder: Path  # of the submission, absolute
    code: Path  # the snapshot
    threads: int

    @property
    def jobs(self) -> Path:
        return self.folder / JOBS

    @property
    def python(self) -> str:
        """As the shell reads it: a cluster's may be a command of several words."""
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
            # Since SLURM 22.05 srun does not ask for the CPUs of its job by itself.
            "srun_args": [
                "--kill-on-bad-exit=1",
                "--open-mode=append",
                f"--cpus-per-task={cluster.cpus}",
                *cluster.srun,
            ],
        }

    def collect(self, dependency: str) -> dict[str, Any]:
        """submitit's parameters for the job at the end."""
        wanted = self.cluster.collect
        return {
            **self._common(f"{self.name}-collect", dependency),
            "partition": wanted.partition or self.cluster.partition,
            "qos": wanted.qos or self.cluster.qos,
            "time": wanted.minutes,
            "nodes": 1,
            "ntasks_per_node": 1,
            "cpus_per_task": wanted.cpus,
            "mem": wanted.memory,
            "setup": self._setup(wanted.cpus),
            "srun_args": ["--open-mode=append", f"--cpus-per-task={wanted.cpus}"],
        }

    def local(self) -> dict[str, Any]:
        """submitit's parameters on a workstation: no time limit, and GPUs are given out by bench.slurm.slots."""
        return {"tasks_per_node": self.cluster.tasks_per_node, "timeout_min": YEAR}

    def text(self, parameters: Mapping[str, Any], count: int = 1) -> str:
        """The batch script as submitit writes it, with or without SLURM here."""
        command = f"{self.python} -u -m {SUBMITIT_JOB_MODULE} {shlex.quote(str(self.jobs))}"
        return sbatch_script(command, self.jobs, {**parameters, "map_count": count if count > 1 else None})

    def _common(self, name: str, dependency: str | None) -> dict[str, Any]:
        extra = {"requeue": True, **self.cluster.sbatch}
        if self.cluster.reservation:
            extra["reservation"] = self.cluster.reservation
        return {"job_name": name, "account": self.cluster.account, "dependency": dependency, "wckey": None,
                "additional_parameters": extra}  # fmt: skip

    def _setup(self, threads: int) -> list[str]:
        """The user's lines, then ours: the snapshot comes first wherever Python looks, and the current folder never."""
        kept = [f"export {name}={shlex.quote(os.environ[name])}" for name in KEPT if name in os.environ]
        return [
            f'echo "{JOB_START_MARKER} ${{SLURM_JOB_ID}} start ${{SLURM_RESTART_COUNT:-0}} on $(hostname -s) at $(date -Is)" >&2',
            *self.cluster.environment,
            f"export PYTHONPATH={shlex.quote(str(self.code))}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1",
            f"export OMP_NUM_THREADS={threads} OMP_WAIT_POLICY=PASSIVE",
            *kept,
        ]

    def _teardown(self, group: int) -> list[str]:
        """A step that was killed leaves a run without an end: the batch script outlives it and says what happened."""
        words = [self.python, "-m", "bench.slurm.postmortem", shlex.quote(str(self.folder)), str(group)]
        return [
            "code=$?",
            f'[ $code -eq 0 ] || {" ".join(words)} "${{SLURM_ARRAY_TASK_ID:-0}}" $code',
            "exit $code",
        ]
