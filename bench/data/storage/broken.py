"""Broken scenes: counted by kind, listed with paths."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from bench.common.files import atomic_write
from bench.data.storage.store import KINDS, Broken, Kind

COLUMNS = ("scene", "kind", "path", "detail")


def by_kind(broken: Mapping[str, Broken]) -> dict[Kind, int]:
    """Kind → scenes, in the order of KINDS."""
    count = Counter(defect.kind for defect in broken.values())
    return {kind: count[kind] for kind in KINDS if count[kind]}


def table(broken: Mapping[str, Broken]) -> str:
    """One line a kind, with the first scene of each."""
    first = {defect.kind: f"{scene}: {defect.detail}" for scene, defect in reversed(list(broken.items()))}
    return "\n".join(f"  {count:7,}  {kind:16} {first[kind]}" for kind, count in by_kind(broken).items())


def rows(broken: Mapping[str, Broken]) -> list[dict[str, str]]:
    """One record a scene, ready for JSON and CSV."""
    return [
        dict(zip(COLUMNS, (scene, defect.kind, defect.path, defect.detail), strict=True))
        for scene, defect in broken.items()
    ]


def write_csv(path: Path, broken: Mapping[str, Broken]) -> None:
    """scene, kind, path, detail."""

    def write(target: Path) -> None:
        with target.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows(broken))

    atomic_write(path, write)
