"""Every stage's result says which code, machine and settings produced it; tables and report read that."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.balls import Balls
from support.sweeps import PROTOCOL, evaluation, profile
from support.training import CPU, stop_after
from test_numerics import SIZE, of

import bench.report
from bench import config
from bench.analysis import tables
from bench.analysis.formatting import read_markdown
from bench.analysis.sweep_sources import sweep_sources
from bench.common.json_files import read_json, write_json
from bench.evaluation.evaluate import evaluate
from bench.profiling import step_profile, trace
from bench.runs.folder import RunFolder, write_sweep
from bench.runs.writer import PlainWriter
from bench.runtime import provenance
from bench.training.train import Stopped, train

A, B, C = (letter * 40 for letter in "abc")
SetCommit = Callable[..., None]


@pytest.fixture
def set_commit(monkeypatch: pytest.MonkeyPatch) -> SetCommit:
    """Pretend that the checkout is at a commit, with files that differ from it."""

    def to(commit: str, *changed: str) -> None:
        monkeypatch.setattr(provenance, "source_version", lambda *_: (commit, list(changed)))

    return to


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    for name in ("bench/a.py", "models/encoders/b.py", "ablations/c.yaml", "README.md", "mine/committed.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name}\n")
    (folder / ".gitignore").write_text("*.log\nablations/private/\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def test_stages_carry_their_own_provenance_and_later_ones_do_not_change_it(
    tmp_path: Path, set_commit: SetCommit, monkeypatch: pytest.MonkeyPatch
) -> None:
    finders = [finder for finder in sys.meta_path if not type(finder).__module__.startswith("jaxtyping")]
    monkeypatch.setattr(sys, "meta_path", finders)
    set_commit(A)
    train(of(), PlainWriter(tmp_path), device=CPU, source=Balls(SIZE))
    set_commit(B, "models/new.py")
    evaluate(of(), PlainWriter(tmp_path), device=CPU, source=Balls(SIZE))
    set_commit(C)
    step_profile.profile(of(), PlainWriter(tmp_path), device=CPU, source=Balls(SIZE))
    trace.trace(of(), PlainWriter(tmp_path), device=CPU, source=Balls(SIZE))
    recorded = RunFolder(tmp_path).provenance()
    assert {stage: (record["commit"], record["local_changes"]) for stage, record in recorded.items()} == {
        "train": (A, []),
        "evals/per_image_white@1": (B, ["models/new.py"]),
        "profiles/cpu-1": (C, []),
        "traces/cpu-1": (C, []),
    }
    for stage, record in recorded.items():
        assert record == read_json(tmp_path / f"{stage}.json")["provenance"]
        assert datetime.now().astimezone() - datetime.fromisoformat(record["time"]) < timedelta(minutes=5)
        assert datetime.fromisoformat(record["time"]).utcoffset() == timedelta(0)
        assert record["host"] and record["torch"] and record["device"] == "cpu" and record["threads"] >= 1
        assert record["precision"]["deterministic_algorithms"]
        assert record["precision"]["autocast"] == {"encoder": "fp32", "aggregator": "fp32", "head": "fp32"}
    precisions = {stage: record["precision"]["float32_matmul_precision"] for stage, record in recorded.items()}
    assert precisions.pop("evals/per_image_white@1") == "highest" and set(precisions.values()) == {"high"}
    assert not (tmp_path / "environment.json").exists()


def test_a_training_that_was_resumed_at_another_commit_names_both(tmp_path: Path, set_commit: SetCommit) -> None:
    longer = of(steps=6, checkpoint_every=2)
    for commit, steps in ((A, 3), (B, 1)):
        set_commit(commit)
        with pytest.raises(Stopped):
            train(longer, PlainWriter(tmp_path), device=CPU, source=Balls(SIZE), stop=stop_after(steps))
    set_commit(C, "bench/x.py")
    train(longer, PlainWriter(tmp_path), device=CPU, source=Balls(SIZE))
    recorded = RunFolder(tmp_path).provenance()["train"]
    assert recorded["commit"] == C
    sessions = [(s["from_step"], s["commit"], s["local_changes"]) for s in recorded["sessions"]]
    assert sessions == [(0, A, []), (3, B, []), (4, C, ["bench/x.py"])]
    assert not (tmp_path / "sessions.jsonl").exists()
    assert provenance.commit_labels(recorded) == ["a" * 12, "b" * 12, "c" * 12 + "+"]


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("models/encoders/mine.py", True),
        ("bench/losses/mine.py", True),
        ("bench/rendering/mine.cpp", True),
        ("ablations/question.yaml", True),
        ("ablations/private/question.yaml", True),  # ignored by git, so in no commit either
        ("bench/noise.log", False),
        ("notes.py", False),
        ("bench/a.py", True),
        ("README.md", True),
    ],
)
def test_untracked_parts_and_specs_are_local_changes(repository: Path, name: str, counts: bool) -> None:
    commit, before = provenance.source_version(repository)
    assert commit and len(commit) == 40 and before == []
    (repository / name).parent.mkdir(exist_ok=True)
    (repository / name).write_text("new\n")
    assert provenance.source_version(repository) == (commit, [name] if counts else [])
    label = provenance.commit_label({"commit": commit, "local_changes": provenance.source_version(repository)[1]})
    assert label == commit[:12] + "+" * counts


def test_without_a_repository_there_is_no_commit(tmp_path: Path) -> None:
    assert provenance.source_version(tmp_path) == (None, [])
    assert provenance.spec_file_state(tmp_path / "question.yaml", tmp_path) is None


def test_the_state_of_a_spec_file(repository: Path, tmp_path: Path) -> None:
    spec = repository / "mine" / "committed.yaml"
    assert provenance.spec_file_state(spec, repository) == "committed"
    spec.write_text("changed\n")
    assert provenance.spec_file_state(spec, repository) == "changed"
    untracked = repository / "question.yaml"
    untracked.write_text("new\n")
    assert provenance.spec_file_state(untracked, repository) == "untracked"
    assert provenance.spec_file_state(tmp_path / "question.yaml", repository) == "outside the repository"


def sweep(results: Path, runs: dict[str, dict[str, Any]], environment: dict[str, Any]) -> Path:
    """A sweep's folder of finished runs: {label: {"train" | "evaluate" | "profile": its provenance or {}}}."""
    lines = []
    for i, (label, stages) in enumerate(runs.items()):
        folder = RunFolder(results / "runs" / f"{i:012x}")
        own = {stage: {"provenance": record} if record else {} for stage, record in stages.items()}
        write_json(folder.path / "train.json", {"steps": 2, **own["train"]})
        write_json(folder.path / "evals" / f"{PROTOCOL.key}.json", evaluation(20.0, 15.0) | own["evaluate"])
        write_json(folder.path / "profiles" / "cpu-1.json", profile(200.0) | own["profile"])
        lines.append({"id": folder.id, "label": label, "status": "done", "steps": 2})
    sweep_record = {"name": "question", "scale": "tiny", "question": "Which?", "spec": "question.yaml"}
    write_sweep(results / "question_tiny", sweep_record, lines, environment)
    return results / "question_tiny"


def at(commit: str, *changed: str) -> dict[str, Any]:
    return {"commit": commit, "local_changes": list(changed), "device_name": "a processor"}


def markdown(folder: Path) -> str:
    """Title and notes of the result table."""
    tables.write(folder, folder.parent)
    table = read_markdown((folder / "tables" / "table.md").read_text())
    return "\n".join([table.title, *table.remarks, *table.definitions])


def test_captions_name_the_commit_that_computed_the_numbers_not_the_last_commands(tmp_path: Path) -> None:
    same = {"train": at(A), "evaluate": at(A), "profile": at(A)}
    text = markdown(sweep(tmp_path, {"one": same, "two": same}, at(B)))
    assert f"commit {A[:12]}." in text and B[:12] not in text and "different commits" not in text


def test_a_table_of_several_commits_says_so_in_one_sentence(tmp_path: Path) -> None:
    runs = {
        "one": {"train": at(A), "evaluate": at(A), "profile": at(A)},
        "two": {"train": at(A), "evaluate": at(B, "models/new.py"), "profile": at(A)},
    }
    folder = sweep(tmp_path, runs, at(C))
    text = markdown(folder)
    sentence = "These numbers come from different commits: aaaaaaaaaaaa (one, two: train, two: profiles/cpu-1); "
    assert sentence + f"bbbbbbbbbbbb+ (two: evals/{PROTOCOL.key}); + means with local changes." in text
    assert "2 commits (see below)" in text and C[:12] not in text
    page = bench.report.open(folder).show("reproduce").html
    assert "come from several commits" in page and f"git checkout {A}" in page
    assert f"bbbbbbbbbbbb+ (evals/{PROTOCOL.key})" in page


def test_stages_that_all_runs_had_at_one_commit_are_named_once(tmp_path: Path) -> None:
    each = {"train": at(A), "evaluate": at(A), "profile": at(B)}
    text = markdown(sweep(tmp_path, {"one": each, "two": each}, at(C)))
    both = f"aaaaaaaaaaaa (all runs: train, all runs: evals/{PROTOCOL.key}); bbbbbbbbbbbb (all runs: profiles/cpu-1)."
    assert f"These numbers come from different commits: {both}" in text


def test_folders_from_before_stages_had_their_own_are_read(tmp_path: Path) -> None:
    none: dict[str, Any] = {"train": {}, "evaluate": {}, "profile": {}}
    folder = sweep(tmp_path, {"one": none}, {"commit": B})
    write_json(tmp_path / "runs" / f"{0:012x}" / "environment.json", {"commit": A + "+", "torch": "2.0"})
    assert f"commit {A[:12]} (with local changes)" in markdown(folder)
    assert RunFolder(tmp_path / "runs" / f"{0:012x}").provenance()["train"]["torch"] == "2.0"
    (tmp_path / "runs" / f"{0:012x}" / "environment.json").unlink()
    assert f"commit {B[:12]}." in markdown(folder)


@pytest.mark.parametrize("state", ["untracked", "changed", "outside the repository"])
def test_a_spec_file_that_the_commit_does_not_hold_is_reported(tmp_path: Path, state: str) -> None:
    same = {"train": at(A), "evaluate": at(A), "profile": at(A)}
    folder = sweep(tmp_path, {"one": same}, at(A, "question.yaml") | {"spec_file": state})
    text = markdown(folder)
    sentences = {"untracked": "is in no commit", "changed": "differs from the commit"}
    assert f"commit {A[:12]} (with local changes); the spec file question.yaml" in text
    assert sentences.get(state, "lies outside the repository") in text
    assert sentences.get(state, "lies outside the repository") in bench.report.open(folder).show("reproduce").html


def test_the_sweeps_record_takes_a_spec_file_elsewhere_into_account(tmp_path: Path, set_commit: SetCommit) -> None:
    set_commit(A)
    record = provenance.of_sweep(tmp_path / "question.yaml", CPU, threads=3)
    assert record["spec_file"] == "outside the repository" and record["threads"] == 3
    assert record["local_changes"] == [str(tmp_path / "question.yaml")] and json.dumps(record)
    assert provenance.commit_label(record) == "a" * 12 + "+"


def test_a_summary_without_its_runs_keeps_their_provenance(tmp_path: Path) -> None:
    same = {"train": at(A), "evaluate": at(A), "profile": at(A)}
    folder = sweep(tmp_path, {"one": same}, at(B))
    line = json.loads((folder / "runs.jsonl").read_text())
    line["provenance"] = RunFolder(tmp_path / "runs" / line["id"]).provenance()
    elsewhere = tmp_path / "elsewhere" / "question_tiny"
    write_sweep(elsewhere, read_json(folder / "sweep.json"), [line], at(B))
    assert f"git checkout {A}" in bench.report.open(elsewhere).show("reproduce").html


def test_the_difference_of_the_code_holds_changed_and_new_files(repository: Path) -> None:
    assert provenance.code_diff(repository) == ""
    (repository / "bench" / "a.py").write_text("changed\n")
    (repository / "models" / "encoders" / "mine.py").write_text("new\n")
    text = provenance.code_diff(repository) or ""
    assert "-bench/a.py\n+changed\n" in text and "+++ b/models/encoders/mine.py" in text and "+new\n" in text
    assert provenance.code_diff(repository.parent / "elsewhere") is None


def test_a_sweep_records_its_specs_text_and_bases(tmp_path: Path) -> None:
    spec = tmp_path / "question.yaml"
    spec.write_text("# Which?\nbase: freesplatter\n")
    recorded = sweep_sources(config.load(spec))
    assert recorded["sources"][str(spec)] == spec.read_text()
    assert recorded["sources"]["ablations/base/freesplatter.yaml"].startswith("#")
