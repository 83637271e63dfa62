"""`python -m bench.compare A B …`: results minus those of A, by id or label, with 95 % intervals and what differs.

A, B, …: a sweep's folder, a run's (also an archived one), results/, or a folder of runs such as results/archive.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from bench.common.errors import UserError, run_command
from bench.common.files import atomic_write_text


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="the first is the reference")
    parser.add_argument("--protocol", metavar="NAME@VERSION", help="default: the first that all have")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write it as Markdown, too")
    options = parser.parse_args(argv)
    from bench.analysis.comparison import compare_sources, read_source
    from bench.analysis.formatting import markdown, terminal

    if len(options.folders) < 2:
        raise UserError("name at least two folders: the reference and what is compared with it")
    table = compare_sources([read_source(folder) for folder in options.folders], options.protocol)
    print(terminal(table))
    if options.output:
        atomic_write_text(options.output, markdown(table))
    return 0


if __name__ == "__main__":
    run_command(main)
