"""A sweep's summary kept: everything it needs, nothing else, and the data's attribution with it."""

import json
import sys
from pathlib import Path

import pytest

from bench import publish
from bench.common.errors import UserError


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "results" / "question_tiny"
    for name in ("tables", "figures"):
        (folder / name).mkdir(parents=True)
        (folder / name / "one.txt").write_text(name)
    for name in ("meshes", "held_out"):
        (tmp_path / name).mkdir()
    (tmp_path / "held_out" / "ATTRIBUTION.md").write_text("Ann made it")
    data = {"name": "gobjaverse", "root": str(tmp_path / "meshes"), "evaluation_root": str(tmp_path / "held_out")}
    (folder / "runs.jsonl").write_text(json.dumps({"id": "a", "spec": {"data": data}}) + "\n")
    for name in ("sweep.json", "environment.json", "report.html"):
        (folder / name).write_text("{}")
    return folder


def test_what_is_kept(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["publish", str(sweep), "--to", str(tmp_path / "published")])
    assert publish.main() == publish.main() == 0  # again: replaced
    kept = tmp_path / "published" / "question_tiny"
    assert sorted(path.name for path in kept.iterdir()) == [
        "ATTRIBUTION-held_out.md", "environment.json", "figures", "runs.jsonl", "sweep.json", "tables"
    ]  # fmt: skip
    assert (kept / "ATTRIBUTION-held_out.md").read_text() == "Ann made it"
    assert (kept / "figures" / "one.txt").read_text() == "figures"


def test_an_unfinished_sweep_is_refused(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (sweep / "environment.json").unlink()
    monkeypatch.setattr(sys, "argv", ["publish", str(sweep)])
    with pytest.raises(UserError, match=r"has no environment\.json"):
        publish.main()
