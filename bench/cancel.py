"""`python -m bench.cancel DIR`: take a sweep's runs out of the queue; those at work write a checkpoint first. No torch.

Submitted again they go on from there.
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
    add("--results", type=Path, metavar="DIR", help="where runs/ lies; default: beside the folder")
    options = parser.parse_args(argv)
    results = options.results or options.sweep.resolve().parent
    if not (options.sweep / "runs.jsonl").is_file():
        raise UserError(f"{options.sweep} is no sweep's folder: it has no runs.jsonl (bench.run makes it)")
    pattern = options.only.lower()
    runs = [run for run in query_sweep(options.sweep, results).runs
            if any(fnmatchcase(text.lower(), pattern) for text in (run.label, run.id, run.job))]  # fmt: skip
    if not runs:
        raise UserError(f"--only {options.only!r} matches no run")
    going = [run for run in runs if run.job and not run.is_terminal]
    cancel(going, results)
    for run in going:
        print(f"{run.label}: {run.state} as {run.job}: cancelled")
    for run in runs:
        if run not in going and not run.is_terminal:
            print(f"{run.label}: {run.state} outside the queue: stop the command that runs it")
    if not going:
        print("nothing of it is in the queue")
    return 0


if __name__ == "__main__":
    run_command(main)
