"""One run in this process, named by its folder or by a spec; or in several processes, which torchrun or srun starts."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.common import environment
from bench.common.console import command_console
from bench.common.errors import UserError
from bench.common.exit_codes import LOCKED
from bench.execution.endings import ExecutionContext
from bench.execution.options import SCALES, RunOptions
from bench.execution.worker import missing_stages, work
from bench.runs.folder import RunFolder
from bench.runs.lease import LeaseHeld

if TYPE_CHECKING:
    from bench.config import Run

SUFFIXES = (".yaml", ".yml")  # of a spec

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None, context: ExecutionContext | None = None) -> int:
    """Run the incomplete stages of one run; an exit code (see bench/work.py)."""
    parser = argparse.ArgumentParser(prog="python -m bench.work", description="Run the incomplete stages of one run.")
    add = parser.add_argument
    add("target", type=Path, metavar="SPEC_OR_RUN_FOLDER", help="a YAML file, or a folder as written by bench.run")
    add("overrides", nargs="*", metavar="key=value", help="of a spec, as in bench.run")
    add("--only", metavar="LABEL", help="of a spec with several runs, the one to work on: its label or id")
    add("--scale", default="tiny", choices=SCALES, help="of a spec; default: tiny")
    add("--results", type=Path, default=Path("results"), metavar="DIR", help="of a spec; default: results")
    threads = max(1, environment.cores() // environment.local_world_size())
    add("--device", default="auto", help="cpu, cuda, cuda:1, …; default: cuda if there is one")
    add("--threads", type=int, default=threads, help="CPU threads of this process (default: its cores)")
    add("--controller", type=int, metavar="PID", help="stop when this parent process has ended")
    add("--claims", type=int, metavar="N", help="exit if the run has been claimed more than N times")
    options = parser.parse_intermixed_args(argv)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(options.threads)  # read once, when torch and numpy are imported
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.captureWarnings(True)
    try:
        folder = _folder_of_spec(options) if options.target.suffix in SUFFIXES else _folder(options)
    except LeaseHeld as held:
        log.info("%s: its run is locked by %s", options.target, held)
        return LOCKED
    return work(folder, options, context)


def _folder(options: argparse.Namespace) -> RunFolder:
    """Raises UserError for what is no run folder."""
    folder = RunFolder(options.target.resolve())
    if not (folder.path / "spec.json").is_file():
        raise UserError(f"{folder.path} is no run folder: it has no spec.json; bench.run SPEC writes it")
    if options.overrides:
        raise UserError(f"{options.overrides[0]}: the spec of a run folder is fixed; name a SPEC.yaml to change it")
    return folder


def _folder_of_spec(options: argparse.Namespace) -> RunFolder:
    """The same folder as bench.run's; rank 0 writes spec.json into it, before the others may read it, unless the run
    has all that the spec requests.

    Raises UserError for a spec that does not name one run, or whose files are missing; LeaseHeld.
    """
    from bench.execution.launcher import prepare_run_folder
    from bench.execution.session import task_of
    from bench.training.initialization import find_problems

    run = _run_of_spec(options)
    rank, world = environment.rank_and_world_size()
    if run.spec.train.batch % world:
        raise UserError(f"train.batch: {run.spec.train.batch} scenes cannot be shared evenly by {world} processes")
    task = task_of(run, options.results.resolve())
    untrained = [parent for parent in run.parents if RunFolder(task.folder.path.parent / parent).training() is None]
    if untrained:
        raise UserError(
            f"{run.label} starts from {', '.join(untrained)}, not trained yet: python -m bench.run does both"
        )
    if rank == 0 and (missing_stages(task.folder, task.spec) or not (task.folder.path / "spec.json").is_file()):
        if problems := find_problems(run.spec):
            raise UserError("\n".join(problems))
        prepare_run_folder(task)
    return task.folder


def _run_of_spec(options: argparse.Namespace) -> Run:
    from bench.execution.selection import load_sweep

    given = RunOptions(options.target, tuple(options.overrides), options.scale, results=options.results)
    sweep, _ = load_sweep(given, command_console(to_stderr=True))
    runs = [run for run in sweep.runs if options.only in (None, run.label, run.id)]
    if len(runs) != 1:
        labels = "; ".join(run.label for run in sweep.runs)
        which = f"--only {options.only!r} is none of its runs" if options.only else f"it has {len(runs)} runs"
        raise UserError(f"{options.target}: {which}: name one with --only, of: {labels}")
    return runs[0]
