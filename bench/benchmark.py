"""`python -m bench.benchmark NAME [options]`: times as ratios to a baseline of the same run.

NAME is a file of bench/profiling/benchmarks/; `NAME --help` describes it.
"""

from __future__ import annotations

import sys
from importlib import import_module

from bench.common.errors import UserError, run_command
from models.parts import available


def main() -> int:
    known = available("bench.profiling.benchmarks")
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(f"{__doc__}\nNAME is one of: {', '.join(known)}")
        return 0
    if sys.argv[1] not in known:
        raise UserError(f"no benchmark {sys.argv[1]!r}; it may be {', '.join(known)}")
    code: int = import_module(f"bench.profiling.benchmarks.{sys.argv[1]}").main(sys.argv[2:])
    return code


if __name__ == "__main__":
    run_command(main)
