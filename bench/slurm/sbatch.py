"""Handing scripts and functions over, through submitit and sbatch."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bench.common.errors import UserError
from bench.slurm.script import Script


def submitted(submit: Any) -> list[Any]:
    """submitit's jobs. Raises UserError with the cluster's own words."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    with clean_environment():
        try:
            return list(submit())
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            lines = [line for line in str(error).splitlines() if "sbatch:" in line] or str(error).splitlines()[-1:]
            raise UserError(f"the cluster refused: {' '.join(lines)}") from error


@contextmanager
def clean_environment() -> Iterator[None]:
    """Without the variables of a job that this runs in, which sbatch would obey; SLURM's address stays."""
    from submitit.helpers import clean_env

    address = os.environ.get("SLURM_CONF")
    with clean_env():
        if address:
            os.environ["SLURM_CONF"] = address
        yield


def executor_of(script: Script) -> Any:
    """submitit's, for the cluster or for this machine. Raises UserError where there is no SLURM."""
    from submitit import SlurmExecutor

    from bench.slurm.detached import DetachedExecutor

    if script.cluster.executor == "local":
        os.environ |= {"PYTHONPATH": str(script.code), "PYTHONSAFEPATH": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        return DetachedExecutor(script.jobs, max_num_timeout=script.cluster.max_timeouts)
    if not shutil.which("sbatch") or not shutil.which("srun"):
        raise UserError("no SLURM here (sbatch and srun are not on PATH); --dry-run prints the scripts without it")
    return SlurmExecutor(script.jobs, max_num_timeout=script.cluster.max_timeouts, python=script.cluster.python)


def ask_scheduler(texts: Sequence[str], say: Callable[[str], None]) -> int:
    """`sbatch --test-only` of each array; the last script, which waits for them, has no jobs yet to wait for."""
    if not shutil.which("sbatch"):
        raise UserError("--test-only asks the scheduler, and there is no SLURM here (sbatch is not on PATH)")
    for text in texts:
        lines = [line for line in text.splitlines() if not line.startswith("#SBATCH --dependency")]
        with tempfile.NamedTemporaryFile("w", suffix=".sh") as file, clean_environment():
            file.write("\n".join(lines) + "\n")
            file.flush()
            done = subprocess.run(["sbatch", "--test-only", file.name], capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"the cluster would refuse: {done.stderr.strip()}")
        say(done.stderr.strip().replace(file.name, ""))
    return 0
