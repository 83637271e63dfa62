"""`python -m bench.cancel DIR`: cancel a sweep's queued and running jobs; running ones write a checkpoint. No torch.

They resume from there when resubmitted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from bench.common.errors import UserError, run_command
from bench.slurm.cancellation import cancel
from bench.slurm.run_state import query_sweep


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.cancel", description=__doc__)
    add = parser.add_argument
    add("sweep", type=Path, metavar="DIR", help="results/<spec>_<scale>")
    add("--only", metavar="PATTERN", default="*", help="only runs whose label, id or job matches, e.g. 'Ours*'")
    add("--results", type=Path, metavar="DIR", help="parent of runs/; default: the folder's parent")
    options = parser.parse_args(argv)
    results = options.results or options.sweep.resolve().parent
    if not (options.sweep / "runs.jsonl").is_file():
        raise UserError(f"{options.sweep} has no runs.jsonl: pass a sweep's folder, results/<spec>_<scale>")
    pattern = options.only.lower()
    runs = [run for run in query_sweep(options.sweep, results).runs
            if any(fnmatchcase(text.lower(), pattern) for text in (run.label, run.id, run.job))]  # fmt: skip
    if not runs:
        raise UserError(f"--only {options.only!r} matches no run")
    active = [run for run in runs if run.job and not run.is_terminal]
    cancel(active, results)
    for run in active:
        print(f"{run.label}: {run.state} as {run.job}: cancelled")
    for run in runs:
        if run not in active and not run.is_terminal:
            print(f"{run.label}: {run.state} is not in the queue: stop the command that runs it")
    if not active:
        print("no run is in the queue")
    return 0


if __name__ == "__main__":
    run_command(main)
