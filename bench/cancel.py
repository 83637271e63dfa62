"""`python -m bench.cancel DIR`: take a sweep's runs out of the queue; those at work write a checkpoint first. No torch.

Submitted again they go on from there.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from bench.errors import BadInput, run_command
from bench.lease import Held, Lease
from bench.record import Status, run_folder
from bench.slurm.queue import PATIENCE_S
from bench.slurm.standing import Standing, job_of, look, process_of
from bench.states import State


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.cancel", description=__doc__)
    add = parser.add_argument
    add("sweep", type=Path, metavar="DIR", help="results/<spec>_<scale>")
    add("--only", metavar="PATTERN", default="*", help="only runs whose label, id or job matches, e.g. 'Ours*'")
    add("--results", type=Path, metavar="DIR", help="where runs/ lies; default: beside the folder")
    options = parser.parse_args(argv)
    results = options.results or options.sweep.resolve().parent
    if not (options.sweep / "runs.jsonl").is_file():
        raise BadInput(f"{options.sweep} is no sweep's folder: it has no runs.jsonl (bench.run makes it)")
    pattern = options.only.lower()
    runs = [run for run in look(options.sweep, results).runs
            if any(fnmatchcase(text.lower(), pattern) for text in (run.label, run.id, run.job))]  # fmt: skip
    if not runs:
        raise BadInput(f"--only {options.only!r} matches no run")
    going = [run for run in runs if run.job and not run.over]
    cancel(going, results)
    for run in going:
        print(f"{run.label}: {run.state} as {run.job}: cancelled")
    for run in runs:
        if run not in going and not run.over:
            print(f"{run.label}: {run.state} outside the queue: stop the command that runs it")
    if not going:
        print("nothing of it is in the queue")
    return 0


def cancel(runs: Sequence[Standing], results: Path) -> None:
    """One at work records its end itself.

    Raises BadInput if SLURM refuses or does not answer, or, once all others are cancelled, for a process that cannot
    be seen from this host.
    """
    jobs = {run.id: job_of(run_folder(results, run.id)) for run in runs}
    if queued := [run.job for run in runs if jobs[run.id]["executor"] == "slurm"]:
        _scancel(queued)
    unreachable = []
    for run in runs:
        if jobs[run.id]["executor"] == "local":
            process = process_of(jobs[run.id])
            if process is None or not process.on_this_host:
                unreachable.append(f"{run.label} ({process or f'process {run.job}, of which only the pid is known'})")
                continue
            process.send_signal(signal.SIGTERM)
        if run.state is State.QUEUED:
            _record(run, results)
    if unreachable:
        raise BadInput(f"cannot be signaled from this host: {'; '.join(unreachable)}; cancel on the host that runs it")


def _scancel(jobs: Sequence[str]) -> None:
    try:
        done = subprocess.run(["scancel", *jobs], capture_output=True, text=True, timeout=5 * PATIENCE_S)
    except FileNotFoundError as error:
        raise BadInput("no SLURM here: scancel is not on PATH") from error
    except subprocess.TimeoutExpired as error:
        raise BadInput("SLURM's controller does not answer: nothing may be cancelled yet; try again") from error
    if done.returncode:
        raise BadInput(f"scancel: {done.stderr.strip()}")


def _record(run: Standing, results: Path) -> None:
    """Of a run that waited: nobody else would."""
    folder = run_folder(results, run.id)
    try:
        with Lease(folder.path) as lease:
            folder.set_status(Status(State.CANCELLED, run.phase, "taken out of the queue"), lease.check)
    except Held:  # it has just begun
        return


if __name__ == "__main__":
    run_command(main)
