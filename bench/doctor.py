"""`python -m bench.doctor`: can this machine run the harness? One line per finding; exit code 2 for a defect."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from bench.common.errors import run_command
from bench.execution.machine_checks import examine


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.doctor", description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    options = parser.parse_args(argv)
    console, defects = Console(highlight=False, soft_wrap=True), 0
    for finding in examine(options.results):
        mark = "[red]defect[/]" if finding.remedy else "[green]ok[/]    "
        remedy = f" — {finding.remedy}" if finding.remedy else ""
        console.print(f"{mark}  {finding.check:<11} {escape(finding.text + remedy)}")
        defects += bool(finding.remedy)
    console.print(f"{defects or 'no'} defect{'s' * (defects != 1)}")
    return 2 if defects else 0


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
