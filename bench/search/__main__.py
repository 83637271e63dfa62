"""`python -m bench.search SPEC`: Optuna proposes values for the fields of its `search` section; each is a run.

Re-run the same command to resume; a run that has a result is never trained twice. Exit code 0: all trials done; 1: some
failed; 2: invalid spec or input; 130: stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from bench.common.console import command_console
from bench.common.errors import UserError, run_command
from bench.execution.options import RunOptions, add_shared, parse_options
from bench.runs.lease import Lease, LeaseHeld
from bench.search.controller import SearchController


def parse(argv: Sequence[str] | None = None) -> RunOptions:
    parser = argparse.ArgumentParser(prog="python -m bench.search", description=__doc__)
    add = parser.add_argument
    add("spec", type=Path, metavar="SPEC", help="a YAML file with a `search` section, such as ablations/search.yaml")
    add("overrides", nargs="*", metavar="key=value", help="any field of the spec; an overridden field is not searched")
    add("--dry-run", action="store_true", help="print the search space and the progress; train nothing")
    add("--json", action="store_true", help="print the rows as a JSON list, all else to stderr")
    add_shared(parser)
    return parse_options(parser, argv)


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    from bench.config.search_section import load_search

    search = load_search(options.spec, options.overrides, options.scale)
    console = command_console(to_stderr=options.json)
    controller = SearchController(search, options, console)
    if options.dry_run:
        from bench.search.preview import print_search_dry_run

        return print_search_dry_run(search, controller.folder, options, console)
    try:
        with Lease(controller.folder):
            return controller.run()
    except LeaseHeld as held:
        raise UserError(f"{controller.folder} is locked by {held}: wait for that search, or stop it") from held


if __name__ == "__main__":
    run_command(main)
