"""`python -m bench.data sheet|generate`: make procedural scenes, and look at them."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.data.scene import SPLITS
from bench.errors import BadInput, run_command


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.data", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, text in (("generate", "fill the cache"), ("sheet", "write a contact sheet PNG")):
        sub = verbs.add_parser(verb, help=text)
        sub.add_argument("--size", type=int, default=32, help="image side in pixels (default 32)")
        sub.add_argument("--scenes", type=int, default=16, help="scenes a split (default 16)")
        sub.add_argument("--seed", type=int, default=0)
        if verb == "sheet":
            sub.add_argument("--split", choices=SPLITS, default="training")
            sub.add_argument("--zoom", type=int, default=1, help="screen pixels a pixel")
            sub.add_argument("--out", type=Path, default=Path("results/scenes.png"))
    options = parser.parse_args()
    if options.size < 1 or options.scenes < 1:
        raise BadInput("--size and --scenes are at least 1")
    from bench.data.sources import procedural

    n = options.scenes
    spec = procedural.Spec(training_scenes=n, validation_scenes=n, evaluation_scenes=n, seed=options.seed)
    source = spec.open(options.size)
    if options.verb == "sheet":
        from bench.data import sheet

        sheet.write(options.out, sheet.sheet(source, options.split, n, options.zoom))
        print(options.out)
    else:
        print(source.folder)
    return 0


if __name__ == "__main__":
    run_command(main)
