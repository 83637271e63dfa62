"""Submission through submitit and sbatch."""

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


def submit_jobs(submit: Callable[[], Sequence[Any]]) -> list[Any]:
    """The jobs that `submit` returns. Raises UserError with sbatch's message."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    with clean_environment():
        try:
            return list(submit())
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            lines = [line for line in str(error).splitlines() if "sbatch:" in line] or str(error).splitlines()[-1:]
            raise UserError(f"sbatch refused the job: {' '.join(lines)}") from error


@contextmanager
def clean_environment() -> Iterator[None]:
    """Without the SLURM variables of an enclosing job, which sbatch would inherit; SLURM_CONF is kept."""
    from submitit.helpers import clean_env

    configuration = os.environ.get("SLURM_CONF")
    with clean_env():
        if configuration:
            os.environ["SLURM_CONF"] = configuration
        yield


def make_executor(script: Script) -> Any:
    """submitit's executor for the cluster or this machine. Raises UserError where SLURM is not installed."""
    from submitit import SlurmExecutor

    from bench.slurm.detached import DetachedExecutor

    if script.cluster.executor == "local":
        os.environ |= {"PYTHONPATH": str(script.code), "PYTHONSAFEPATH": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        return DetachedExecutor(script.jobs, max_num_timeout=script.cluster.max_timeouts)
    if not shutil.which("sbatch") or not shutil.which("srun"):
        raise UserError(
            "SLURM is not installed here (sbatch and srun are not on PATH); --dry-run prints the scripts without it"
        )
    return SlurmExecutor(script.jobs, max_num_timeout=script.cluster.max_timeouts, python=script.cluster.python)


def validate_scripts(texts: Sequence[str], report: Callable[[str], None]) -> None:
    """`sbatch --test-only` of each script, without its dependencies: their jobs do not exist yet. Raises UserError."""
    if not shutil.which("sbatch"):
        raise UserError("--test-only needs SLURM, which is not installed here (sbatch is not on PATH)")
    for text in texts:
        lines = [line for line in text.splitlines() if not line.startswith("#SBATCH --dependency")]
        with tempfile.NamedTemporaryFile("w", suffix=".sh") as file, clean_environment():
            file.write("\n".join(lines) + "\n")
            file.flush()
            done = subprocess.run(["sbatch", "--test-only", file.name], capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"sbatch would refuse the job: {done.stderr.strip()}")
        report(done.stderr.strip().replace(file.name, ""))
