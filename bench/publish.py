"""`python -m bench.publish SWEEP_FOLDER`: keep a sweep's summary (tables, figures, records) in results/published/."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from bench.errors import BadInput, run_command
from bench.record import commit

KEPT = ("sweep.json", "runs.jsonl", "environment.json", "tables", "figures")
OF_A_SEARCH = ("search.json", "trials.jsonl", "front")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.publish", description=__doc__)
    parser.add_argument("sweep", type=Path, help="results/<spec>_<scale>, as bench.run printed it")
    parser.add_argument("--to", type=Path, default=Path("results/published"))
    options = parser.parse_args()
    if missing := [name for name in KEPT if not (options.sweep / name).exists()]:
        raise BadInput(f"{options.sweep} has no {missing[0]}: name the folder of a sweep that bench.run finished")
    target = options.to / options.sweep.name

    def write(folder: Path) -> None:
        folder.mkdir()
        for name in (*KEPT, *(name for name in OF_A_SEARCH if (options.sweep / name).exists())):
            source = options.sweep / name
            if source.is_dir():
                shutil.copytree(source, folder / name)
            else:
                shutil.copyfile(source, folder / name)

    commit(target, write)
    print(target)
    return 0


if __name__ == "__main__":
    run_command(main)
