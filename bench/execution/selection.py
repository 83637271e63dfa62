"""The sweep and the runs that a command line asks for."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from rich.console import Console

from bench.common.errors import UserError
from bench.execution.options import RunOptions

if TYPE_CHECKING:
    from bench.config import Run, Sweep


def load_sweep(options: RunOptions, console: Console) -> tuple[Sweep, str]:
    """The sweep and the name of its folder below results/, in which `--overfit N` stands for its many overrides.

    Prints the sweep's notes. Raises UserError, and ConfigError with every problem of the spec.
    """
    from bench import config
    from bench.config.naming import folder_name

    protocol_overrides: list[str] = []
    if options.overfit:
        from bench.evaluation.overfit import overrides

        specs = [run.spec for run in config.load(options.spec, options.overrides, options.scale).runs]
        protocol_overrides = overrides(options.overfit, specs)
    sweep = config.load(options.spec, [*protocol_overrides, *options.overrides], options.scale)
    if sweep.search:
        raise UserError(f"{sweep.search}: this spec is a search: python -m bench.search {options.spec}")
    for note in sweep.notes:
        console.print(note, style="yellow", markup=False, highlight=False, soft_wrap=True)
    short = [f"overfit={options.overfit}"] if options.overfit else []
    return sweep, options.name or folder_name(sweep.name, sweep.scale, [*short, *options.overrides])


def select_runs(sweep: Sweep, pattern: str | None) -> list[Run]:
    """Runs whose label or id matches, with all that they start from; None: all. Raises UserError if none does."""
    if pattern is None:
        return sweep.runs
    selected = {r.id for r in sweep.runs if any(fnmatchcase(t.lower(), pattern.lower()) for t in (r.label, r.id))}
    if not selected:
        raise UserError(f"--only {pattern!r} matches none of: {'; '.join(run.label for run in sweep.runs)}")
    while parents := {parent for run in sweep.runs if run.id in selected for parent in run.parents} - selected:
        selected |= parents
    return [run for run in sweep.runs if run.id in selected]
