"""`python -m bench.publish SWEEP_FOLDER`: copy a sweep's summary (tables, figures, records) to results/published/.

The ATTRIBUTION.md of the data is copied, too: figures show models whose authors must be named. The copied records hold
names of the data's folders, not their paths.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from bench.common.errors import UserError, run_command
from bench.common.files import atomic_write
from bench.common.json_files import read_lines

SUMMARY = ("sweep.json", "runs.jsonl", "environment.json", "tables", "figures")
RECORDS = (".json", ".jsonl")
SEARCH_FILES = ("search.json", "trials.jsonl", "front")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.publish", description=__doc__)
    parser.add_argument("sweep", type=Path, help="results/<spec>_<scale>, as printed by bench.run")
    parser.add_argument("--to", type=Path, default=Path("results/published"))
    parser.add_argument("--name", help="of the folder below --to; default: the sweep's own")
    options = parser.parse_args()
    if missing := [name for name in SUMMARY if not (options.sweep / name).exists()]:
        raise UserError(f"{options.sweep} has no {missing[0]}: name the folder of a sweep that bench.run finished")
    roots = data_roots(options.sweep)
    if absent := [str(root) for root in roots if not root.is_dir()]:
        raise UserError(f"no folder {absent[0]}, whose ATTRIBUTION.md must be published with what was trained on it: "
                        "run this where the sweep was run")  # fmt: skip
    target = options.to / (options.name or options.sweep.name)

    def write(folder: Path) -> None:
        folder.mkdir()
        for name in (*SUMMARY, *(name for name in SEARCH_FILES if (options.sweep / name).exists())):
            source = options.sweep / name
            if source.is_dir():
                shutil.copytree(source, folder / name)
            else:
                shutil.copyfile(source, folder / name)
        for root in roots:
            replace_path(folder, root)
            if (attribution := root / "ATTRIBUTION.md").is_file():
                shutil.copyfile(attribution, folder / f"ATTRIBUTION-{root.name}.md")

    atomic_write(target, write)
    print(target)
    return 0


def replace_path(folder: Path, root: Path) -> None:
    """By the folder's name, in all records: where data lies is a matter of one machine."""
    for path in folder.rglob("*"):
        if path.suffix in RECORDS and str(root) in (text := path.read_text(encoding="utf-8")):
            path.write_text(text.replace(str(root), root.name), encoding="utf-8")


def data_roots(sweep: Path) -> list[Path]:
    """The folders that the runs' data was read from."""
    data = [line.get("spec", {}).get("data", {}) for line in read_lines(sweep / "runs.jsonl")]
    return [Path(root) for root in dict.fromkeys(d[k] for d in data for k in ("root", "evaluation_root") if d.get(k))]


if __name__ == "__main__":
    run_command(main)
