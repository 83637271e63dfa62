"""`python -m bench.proportions SPEC`: are a spec's models at tiny and small scale the paper's in miniature?

Prints a Markdown table: blocks, tokens, parameters, forward FLOPs at each scale, and their ratios to the first model.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from bench.common.errors import run_command


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.proportions", description=__doc__)
    parser.add_argument("spec", type=Path, nargs="?", default=Path("ablations/table3.yaml"), metavar="SPEC")
    options = parser.parse_args(argv)
    from bench.profiling.proportions import markdown, proportions

    print(markdown(proportions(options.spec)))
    return 0


if __name__ == "__main__":
    run_command(main)
