"""`python -m bench.run SPEC`: a question in YAML → trained and evaluated runs, tables and figures.

Re-run the same command to resume; nothing that is finished is done twice. Exit code 0: all done; 1: some runs failed;
2: a bad spec or input; 130: stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from bench.common.console import command_console
from bench.common.errors import UserError, run_command
from bench.common.exit_codes import DONE
from bench.execution.dry_run import print_dry_run
from bench.execution.options import RunOptions, add_cluster, add_shared, parse_options
from bench.execution.selection import load_sweep, select_runs
from bench.execution.session import Session, resolve_device
from bench.slurm.estimates import print_estimated_dry_run


def parse(argv: Sequence[str] | None = None) -> RunOptions:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    add = parser.add_argument
    add("spec", type=Path, metavar="SPEC", help="a YAML file of ablations/")
    add("overrides", nargs="*", metavar="key=value", help="any field of the spec, e.g. train.steps=100")
    add("--dry-run", action="store_true", help="print the runs, their settings and what is missing; train nothing")
    add("--json", action="store_true", help="print the runs as a JSON list; all else goes to stderr")
    add("--only", metavar="PATTERN", help="only runs whose label or id matches, e.g. 'Ours*', and what they start from")
    add("--force", action="store_true", help="archive existing run folders (results/archive/) and train anew")
    add("--overfit", type=int, metavar="N", help="memorize N scenes, the first test of a new part")
    add_cluster(parser)
    add_shared(parser)
    return parse_options(parser, argv)


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    console = command_console(to_stderr=options.json)
    sweep, folder = load_sweep(options, console)
    chosen = select_runs(sweep, options.only)
    if options.estimates:
        return print_estimated_dry_run(sweep, chosen, options, folder, console)
    if options.slurm:
        from bench.slurm.cluster import load
        from bench.slurm.submit import Submission

        return Submission(sweep, chosen, options, folder, console, load(options.slurm, sweep.scale)).run()
    if options.test_only:
        raise UserError("--test-only goes with --slurm FILE")
    if options.dry_run:
        resolve_device(options.device)
        print_dry_run(sweep, chosen, options.json, console, options.results / folder)
        return DONE
    return Session(sweep, chosen, options, folder, console).run()


if __name__ == "__main__":
    run_command(main)
