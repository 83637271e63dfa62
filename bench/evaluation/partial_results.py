"""The scenes that an unfinished evaluation has scored, one line a chunk: a run that is killed resumes after them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.common.json_files import read_lines
from bench.config.schema import RunSpec
from bench.config.source_hash import source_hashes
from bench.runs.writer import Writer
from models.weights import WEIGHTS_FILE

PACKAGES = ("evaluation", "protocols", "outputs")  # what computes the numbers, beside the run's own choices
SAME = ("commit", "python", "torch", "packages", "device", "device_name", "threads", "precision", "lpips_sha256")


class PartialResults:
    """`evaluating-<key>.jsonl` of a run's folder: a header that says what is evaluated, then records of chunks."""

    def __init__(self, writer: Writer, key: str, header: Mapping[str, Any]) -> None:
        """`key`: of the result. `header`: all else that decides its numbers; records under another are deleted."""
        self.writer, self.name = writer, f"evaluating-{key}.jsonl"
        lines = read_lines(writer.folder / self.name)
        first = json.loads(json.dumps(header))
        if lines[:1] != [first]:
            lines = [first]
            writer.remove(self.name)
            writer.append(self.name, first)
        self.finished: dict[int, dict[str, Any]] = {record["chunk"]: record for record in lines[1:]}

    def append(self, record: Mapping[str, Any]) -> None:
        """Record a chunk: {"chunk": its number, …}."""
        self.writer.append(self.name, record)
        self.finished[record["chunk"]] = dict(record)

    def remove(self) -> None:
        """Once the result is written."""
        self.writer.remove(self.name)


def header(
    spec: RunSpec, folder: Path, provenance: Mapping[str, Any], chunks: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """Model, code, machine and scenes of an evaluation, ready for JSON."""
    with (folder / WEIGHTS_FILE).open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        **{key: provenance[key] for key in SAME},
        "weights": weights,
        "code": source_hashes(spec) | _package_hashes(),
        "chunks": [len(chunks), len(chunks[0]) if chunks else 0],
        "scenes": hashlib.sha256("\0".join(scene for chunk in chunks for scene in chunk).encode()).hexdigest(),
    }


def _package_hashes() -> dict[str, str]:
    bench = Path(__file__).resolve().parents[1]
    files = sorted(file for package in PACKAGES for file in (bench / package).glob("*.py"))
    return {f"{file.parent.name}/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in files}
