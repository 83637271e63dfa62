"""`python -m bench.ship RUN NAME --command "python -m bench.run …"`: make a part of a finished run one that ships.

Writes models/pretrained/NAME.safetensors (float16), NAME.json (read by `init: {encoder: {shipped: NAME}}`) and NAME.md,
its model card. Every number in them, but for what --gives says, is read from the run's folder or measured here.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from bench.common.errors import UserError, run_command
from bench.runs.folder import RunFolder


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.ship", description=__doc__)
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="a finished run's folder, results/runs/ID")
    add("name", metavar="NAME", help="a new name below models/pretrained/")
    add("--part", choices=("encoder", "aggregator", "head"), default="encoder", help="default: encoder")
    add("--command", required=True, help="the command that repeats the run, for the card")
    add("--gives", metavar="TEXT", help="what it was measured to give a model that starts from it, for the card")
    add("--to", type=Path, metavar="DIR", help="default: models/pretrained of this checkout")
    options = parser.parse_args(argv)
    if not options.name.isidentifier():
        raise UserError(f"{options.name!r} is no name for a file and a spec: use letters, digits and _")
    if RunFolder(options.run).training() is None:
        raise UserError(f"{options.run} has not finished training: pass the folder of a finished run, results/runs/ID")
    from bench.training import shipping

    print(shipping.ship(options.run, options.name, options.part, options.command, options.gives, options.to))
    return 0


if __name__ == "__main__":
    run_command(main)
