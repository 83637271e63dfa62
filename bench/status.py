"""`python -m bench.status DIR`: states of a sweep's runs, local or on a cluster. No torch.

From the run folders first, then squeue, then sacct. Exit code 1 if a run failed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from bench.common.console import print_json
from bench.common.errors import UserError, run_command
from bench.slurm.run_state import query_sweep
from bench.slurm.status_table import follow, render_status


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.status", description=__doc__)
    add = parser.add_argument
    add("sweep", type=Path, metavar="DIR", help="results/<spec>_<scale>")
    add("--follow", action="store_true", help="refresh until every run has ended")
    add("--every", type=float, default=5.0, metavar="S", help="seconds between updates (default 5)")
    add("--json", action="store_true", help="print the runs as a JSON list")
    add("--results", type=Path, metavar="DIR", help="parent of runs/; default: the folder's parent")
    options = parser.parse_args(argv)
    results = options.results or options.sweep.resolve().parent
    if not (options.sweep / "runs.jsonl").is_file():
        raise UserError(f"{options.sweep} has no runs.jsonl: pass a sweep's folder, results/<spec>_<scale>")
    console = Console()
    if options.follow:
        sweep = follow(options.sweep, results, options.every, console)
    else:
        sweep = query_sweep(options.sweep, results)
        if options.json:
            print_json([asdict(run) for run in sweep.runs])
        else:
            console.print(render_status(sweep))
    return int(any(run.state.failed for run in sweep.runs))


if __name__ == "__main__":
    run_command(main)
