"""`python -m bench.config > tests/golden/run_ids.json`: the ids of the committed specs at every scale, renewed."""

import json
import sys

from bench.common.errors import run_command
from bench.config import SCALES, load
from bench.config.spec_files import BASES


def ids() -> dict[str, dict[str, str]]:
    """{"table3 tiny": {label: id}}."""
    specs = sorted(BASES.parent.glob("*.yaml"))
    sweeps = [load(spec, scale=scale) for spec in specs for scale in SCALES]
    return {f"{sweep.name} {sweep.scale}": {run.label: run.id for run in sweep.runs} for sweep in sweeps}


def main() -> int:
    json.dump(ids(), sys.stdout, indent=1)
    print()
    return 0


if __name__ == "__main__":
    run_command(main)
