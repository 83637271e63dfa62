"""What a dry run prints: all that decides whether to start, without training or writing anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.commands import SPEC

import bench.run
from bench.config import load, to_dict
from bench.runs.folder import Status, run_folder
from bench.runs.states import State


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return path


def rows(spec: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    bench.run.main([str(spec), *arguments, "--dry-run", "--json"])
    parsed: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return parsed


def test_differences_scenes_and_batch(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = rows(spec, capsys, "train.micro_batch=1")
    assert (first["differences"], second["differences"]) == ({}, {"model.encoder.patch": "8"})
    assert second["not_swept"] == [] and second["state"] == "planned" and second["measured"] is None
    assert second["scenes"] == {"training": 16, "validation": 16, "evaluation": 16}
    bench.run.main([str(spec), "train.micro_batch=1", "--dry-run"])
    printed = capsys.readouterr().out
    for text in ("steps 60", "batch 2 in micro-batches of 1", "learning rate 0.003", "precision fp32", "16 training",
                 "Differences from patch 4:", "- patch 8: encoder.patch 8", "State: 2 planned"):  # fmt: skip
        assert text in printed


def test_a_swept_learning_rate_is_printed_once_and_seeds_are_one_line(
    spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec.write_text(SPEC.replace("model.encoder.patch: [4, 8]", "train.learning_rate: [1.0e-3, 2.0e-3]"))
    bench.run.main([str(spec), "seeds=[0, 1]", "--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("Differences from learning rate 0.001:")
    assert lines[start + 1 : start + 3] == [
        "- learning rate 0.001: learning rate 0.001 → 2e-05",
        "- learning rate 0.002: learning rate 0.002 → 2e-05",
    ]
    assert lines[start - 1].startswith("All runs: steps 60; batch 2; ") and lines[start - 1].endswith("; seeds 0, 1")
    assert lines[start + 3] == "State: 4 planned"


def test_what_a_part_starts_from_is_a_difference(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec.write_text(
        "runs: [{name: scratch, base: ours1, init.encoder: scratch}, {name: later, base: ours1, "
        "init.encoder: {run: scratch}}]\nscales: {tiny: {runs: [{name: shipped, base: ours1}, {name: scratch, base: "
        "ours1, init.encoder: scratch}, {name: later, base: ours1, init.encoder: {run: scratch}}]}}\n"
    )
    shipped, scratch, later = rows(spec, capsys)
    assert scratch["differences"] == {"init.encoder": "scratch"} and scratch["not_swept"] == []
    assert later["differences"] == {"init.encoder": "run scratch"} and shipped["differences"] == {}


def test_what_nobody_swept_is_marked(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Naming another encoder replaces the old one whole: the base's own patch is lost with it."""
    spec.write_text("base: freesplatter\nset: {model.encoder.patch: 4}\nruns: [{seed: 0}, {model.encoder: croco}]\n")
    second = rows(spec, capsys)[1]
    assert second["differences"] == {"model.encoder.name": "croco", "model.encoder.patch": "8"}
    assert second["not_swept"] == ["model.encoder.patch"]
    bench.run.main([str(spec), "--dry-run"])
    printed = capsys.readouterr().out
    assert "encoder.patch 8*" in printed and "* differs although the spec does not sweep it" in printed


def test_states_and_measurements_of_matching_runs(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another seed of the same model has the same cost."""
    done, other = load(spec).runs[0], load(spec, ["seed=7"]).runs[1]
    run_folder(Path("results"), done.id).set_status(Status(State.DONE))
    measured = run_folder(Path("results"), other.id)
    (measured.path / "profiles").mkdir(parents=True)
    (measured.path / "spec.json").write_text(json.dumps({"spec": to_dict(other.spec)}))
    profile = {"step_time_ms": 500.0, "host_peak_memory_gib": 1.5, "reserved_peak_memory_gib": None, "device": "a CPU",
               "world": 1}  # fmt: skip
    (measured.path / "profiles" / "cpu-1.json").write_text(json.dumps(profile))
    first, second = rows(spec, capsys)
    assert (first["state"], second["state"]) == ("done", "planned")
    assert first["measured"] is None and second["measured"] == {"run": other.id, **profile}
    bench.run.main([str(spec), "--dry-run"])
    printed = capsys.readouterr().out
    assert "State: 1 done, 1 planned" in printed
    assert (
        f"Measured for patch 8: 500 ms a step, 1.5 GiB of host memory, so 0.5 min for 60 steps (run {other.id}"
        in printed
    )


@pytest.mark.parametrize("switch", ["train.shard=true", "train.fused_qkv=true", "train.recompute.head=block"])
def test_a_measurement_with_another_switch_is_of_another_step(
    switch: str, spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = load(spec, ["seed=7"]).runs[1]
    measured = run_folder(Path("results"), other.id)
    (measured.path / "profiles").mkdir(parents=True)
    (measured.path / "spec.json").write_text(json.dumps({"spec": to_dict(other.spec)}))
    (measured.path / "profiles" / "cpu-1.json").write_text(json.dumps({"step_time_ms": 500.0}))
    assert [row["measured"] is None for row in rows(spec, capsys)] == [True, False]
    assert [row["measured"] for row in rows(spec, capsys, switch)] == [None, None]


def test_the_results_folder_may_be_named(spec: Path) -> None:
    from bench.common.console import command_console
    from bench.execution.selection import load_sweep

    assert load_sweep(bench.run.parse([str(spec)]), command_console(False))[1] == "spec_tiny"
    assert load_sweep(bench.run.parse([str(spec), "--name", "mine"]), command_console(False))[1] == "mine"
