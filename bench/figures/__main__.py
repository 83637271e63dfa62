"""`python -m bench.figures SWEEP_FOLDER`: draw the figures of a sweep."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.common.errors import UserError, run_command
from bench.figures import KINDS, write


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.figures", description=__doc__)
    parser.add_argument("sweep", type=Path, metavar="SWEEP_FOLDER", help="results/<spec>_<scale>")
    parser.add_argument("--results", type=Path, metavar="DIR", help="where runs/ lies; default: beside the folder")
    parser.add_argument("--only", choices=KINDS, action="append", help="default: all of them")
    options = parser.parse_args()
    if not (options.sweep / "sweep.json").is_file():
        raise UserError(f"{options.sweep} is not a sweep's folder: it has no sweep.json")
    for path in write(options.sweep, options.results or options.sweep.resolve().parent, options.only or KINDS):
        print(path)
    return 0


if __name__ == "__main__":
    run_command(main)
