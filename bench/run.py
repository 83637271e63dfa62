"""`python -m bench.run SPEC`: a question in YAML → trained and evaluated runs, tables and figures.

Run it again and it goes on where it stopped; nothing that is finished is done twice. Exit code 0: all done; 1: some
runs failed; 2: a bad spec or input; 130: stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from bench.common.console import command_console
from bench.common.errors import UserError, run_command
from bench.execution import dry_run
from bench.execution.options import RunOptions, add_shared, parse_options

if TYPE_CHECKING:
    from bench.config import Run, Sweep
from bench.common.exit_codes import DONE
from bench.execution.session import Session


def parse(argv: Sequence[str] | None = None) -> RunOptions:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    add = parser.add_argument
    add("spec", type=Path, metavar="SPEC", help="a YAML file of ablations/")
    add("overrides", nargs="*", metavar="key=value", help="any field of the spec, e.g. train.steps=100")
    add("--dry-run", action="store_true", help="print the runs, their sizes and what is missing; train nothing")
    add("--json", action="store_true", help="print the runs as a JSON list; all else goes to stderr")
    add("--only", metavar="PATTERN", help="only runs whose label or id matches, e.g. 'Ours*', and what they start from")
    add("--force", action="store_true", help="put finished and begun runs aside (results/archive/) and do them anew")
    add("--overfit", type=int, metavar="N", help="memorize N scenes, the first test of a new part")
    add("--slurm", type=Path, metavar="FILE", help="hand the runs to a cluster, e.g. slurm/a100.yaml, and return")
    add("--test-only", action="store_true", help="with --slurm: ask the scheduler what it would say")
    add_shared(parser)
    return parse_options(parser, argv)


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    sweep, folder = _load(options)
    chosen = _chosen(sweep, options.only)
    console = command_console(to_stderr=options.json)
    if options.slurm:
        from bench.slurm.cluster import load
        from bench.slurm.submit import Submission

        return Submission(sweep, chosen, options, folder, console, load(options.slurm, sweep.scale)).run()
    if options.test_only:
        raise UserError("--test-only goes with --slurm FILE")
    if options.dry_run:
        dry_run.print_dry_run(sweep, chosen, options.json, console, options.results)
        return DONE
    return Session(sweep, chosen, options, folder, console).run()


def _load(options: RunOptions) -> tuple[Sweep, str]:
    """The sweep and the name of its folder, in which `--overfit N` stands for its many overrides."""
    from bench import config
    from bench.config.naming import folder_name

    before: list[str] = []
    if options.overfit:
        from bench.evaluation.overfit import overrides

        before = overrides(options.overfit)
    sweep = config.load(options.spec, [*before, *options.overrides], options.scale)
    if sweep.search:
        raise UserError(f"{sweep.search}: this spec is a search: python -m bench.search {options.spec}")
    told = [f"overfit={options.overfit}"] if before else []
    return sweep, folder_name(sweep.name, sweep.scale, [*told, *options.overrides])


def _chosen(sweep: Sweep, pattern: str | None) -> list[Run]:
    """Runs that match, with all that they start from."""
    if pattern is None:
        return sweep.runs
    wanted = {r.id for r in sweep.runs if any(fnmatchcase(t.lower(), pattern.lower()) for t in (r.label, r.id))}
    if not wanted:
        raise UserError(f"--only {pattern!r} matches none of: {'; '.join(run.label for run in sweep.runs)}")
    while more := {parent for run in sweep.runs if run.id in wanted for parent in run.parents} - wanted:
        wanted |= more
    return [run for run in sweep.runs if run.id in wanted]


if __name__ == "__main__":
    run_command(main)
