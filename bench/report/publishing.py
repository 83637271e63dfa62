"""A sweep's summary for results/published/: its report, tables, figures and records, with the authors of its data."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from bench.common.errors import UserError
from bench.common.files import atomic_write
from bench.common.json_files import read_lines

SUMMARY = ("sweep.json", "runs.jsonl", "environment.json", "tables", "figures")
WHERE_PRESENT = ("report.html", "search.json", "trials.jsonl", "front")
TEXTS = (".json", ".jsonl", ".html")


def publish(sweep: Path, target: Path) -> None:
    """Copy a finished sweep's summary to the folder `target`, replacing what is there.

    The ATTRIBUTION.md of the data is copied, too: figures show models whose authors must be named. The copies hold
    names of the data's folders and of weights that a run starts from, not their paths.

    Errors: UserError if the sweep is not finished, or a folder of its data is absent.
    """
    if missing := [name for name in SUMMARY if not (sweep / name).exists()]:
        raise UserError(f"{sweep} has no {missing[0]}: name the folder of a sweep that bench.run finished")
    roots = _data_roots(sweep)
    if absent := [str(root) for root in roots if not root.is_dir()]:
        raise UserError(f"no folder {absent[0]}, whose ATTRIBUTION.md must be published with what was trained on it: "
                        "run this where the sweep was run")  # fmt: skip

    def write(folder: Path) -> None:
        folder.mkdir()
        for name in (*SUMMARY, *(name for name in WHERE_PRESENT if (sweep / name).exists())):
            source = sweep / name
            if source.is_dir():
                shutil.copytree(source, folder / name)
            else:
                shutil.copyfile(source, folder / name)
        for path in sorted({*roots, *_weights(sweep)}, key=lambda path: -len(str(path))):
            if path.is_absolute() and path.name:
                _replace_path(folder, path)
        for root in roots:
            if (attribution := root / "ATTRIBUTION.md").is_file():
                shutil.copyfile(attribution, folder / f"ATTRIBUTION-{root.name}.md")

    atomic_write(target, write)


def _replace_path(folder: Path, given: Path) -> None:
    """By its name, in records and report: where data and weights lie is a matter of one machine."""
    whole = re.compile(rf"(?<![\w./~-]){re.escape(str(given))}(?![\w.-])")  # no part of a longer path or name
    for path in folder.rglob("*"):
        if path.suffix in TEXTS and str(given) in (text := path.read_text(encoding="utf-8")):
            path.write_text(whole.sub(lambda _: given.name, text), encoding="utf-8")


def _data_roots(sweep: Path) -> list[Path]:
    """The folders that the runs' data was read from."""
    data = [line.get("spec", {}).get("data", {}) for line in read_lines(sweep / "runs.jsonl")]
    return [Path(root) for root in dict.fromkeys(d[k] for d in data for k in ("root", "evaluation_root") if d.get(k))]


def _weights(sweep: Path) -> list[Path]:
    """The files that parts of the runs start from."""
    specs = [line.get("spec", {}) for line in read_lines(sweep / "runs.jsonl")]
    starts = [start for spec in specs for start in spec.get("init", {}).values() if isinstance(start, dict)]
    return [Path(path) for path in dict.fromkeys(start.get("weights") for start in starts) if path]
