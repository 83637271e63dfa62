"""`python -m bench.report DIR`: a sweep's notebook (report.ipynb) and page (report.html), or with --latex a table for a
paper, written from the sweep's records."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from bench.common.console import progress
from bench.common.errors import UserError, run_command


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("sweep", type=Path, metavar="DIR", help="results/<spec>_<scale>, or a published summary")
    parser.add_argument("--results", type=Path, metavar="DIR", help="where runs/ lies; default: beside the folder")
    parser.add_argument("--latex", action="store_true", help="write tables/paper.tex for a two-column article instead")
    parser.add_argument("--columns", metavar="NAMES", help="of the LaTeX table, such as psnr,ssim,parameters")
    options = parser.parse_args(argv)
    from bench import report

    if options.columns and not options.latex:
        raise UserError("--columns chooses the columns of the LaTeX table: add --latex")
    if options.latex:
        print(report.write_latex(options.sweep, options.results, (options.columns or "").split(",")))
        return 0

    with progress("executing the report's notebook"):
        pages = report.write(options.sweep, options.results)
    for path in pages:
        print(path)
    return 0


if __name__ == "__main__":
    run_command(main)
