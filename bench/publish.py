"""`python -m bench.publish SWEEP_FOLDER`: copy a sweep's report, tables, figures and records to results/published/."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.common.errors import run_command
from bench.report.publishing import publish


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.publish", description=__doc__)
    parser.add_argument("sweep", type=Path, help="results/<spec>_<scale>, as printed by bench.run")
    parser.add_argument("--to", type=Path, default=Path("results/published"))
    parser.add_argument("--name", help="of the folder below --to; default: the sweep's own")
    options = parser.parse_args()
    target = options.to / (options.name or options.sweep.name)
    publish(options.sweep, target)
    print(target)
    return 0


if __name__ == "__main__":
    run_command(main)
