"""`python -m bench.status DIR`: how the runs of a sweep stand, wherever they run. No torch.

From their files first, then squeue, then sacct. Exit code 1 if a run ended badly.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from bench.common.errors import UserError, run_command
from bench.slurm.run_state import query_sweep
from bench.slurm.status_table import follow, render_status


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.status", description=__doc__)
    add = parser.add_argument
    add("sweep", type=Path, metavar="DIR", help="results/<spec>_<scale>")
    add("--follow", action="store_true", help="look again and again until every run has ended")
    add("--every", type=float, default=5.0, metavar="S", help="seconds between looks (default 5)")
    add("--json", action="store_true", help="print the runs as a JSON list")
    add("--results", type=Path, metavar="DIR", help="where runs/ lies; default: beside the folder")
    options = parser.parse_args(argv)
    results = options.results or options.sweep.resolve().parent
    if not (options.sweep / "runs.jsonl").is_file():
        raise UserError(f"{options.sweep} is no sweep's folder: it has no runs.jsonl (bench.run makes it)")
    console = Console()
    if options.follow:
        found = follow(options.sweep, results, options.every, console)
    else:
        found = query_sweep(options.sweep, results)
        if options.json:
            print(json.dumps([asdict(run) for run in found.runs], indent=1, ensure_ascii=False))
        else:
            console.print(render_status(found))
    return int(any(run.state.failed for run in found.runs))


if __name__ == "__main__":
    run_command(main)
