"""bench.compare: results of two folders, paired by id or label."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.sweeps import PROTOCOL, SCENES, evaluation

from bench.common.errors import UserError
from bench.common.json_files import read_json, read_lines, write_json
from bench.compare import main


def ids_of(sweep: Path) -> dict[str, str]:
    return {line["label"]: line["id"] for line in read_lines(sweep / "runs.jsonl")}


@pytest.fixture
def archive(sweep_copy: Path) -> Path:
    """The runs as `--force` archives them, 0.5 dB worse; one of them was archived once more before."""
    folder = sweep_copy.parent / "archive"
    for label, run_id in ids_of(sweep_copy).items():
        source = sweep_copy.parent / "runs" / run_id
        if source.is_dir():
            shutil.copytree(source, folder / f"{run_id}.10")
            if label == "Ours1, seed 0":
                shutil.copytree(source, folder / f"{run_id}.9")
    for path in folder.glob(f"*.10/evals/{PROTOCOL.key}.json"):
        means = read_json(path)["means"]
        write_json(path, evaluation(means["psnr"] - 0.5, means["psnr_foreground"]))
    return folder


def rows_of(output: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in output.splitlines() if line[:1] == "|"]
    return {row[0]: row for row in [rows[0], *rows[2:]]}


def test_before_and_after_a_change_of_code(
    sweep_copy: Path, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "difference.md"
    assert main([str(archive), str(sweep_copy), "--output", str(output)]) == 0
    text = capsys.readouterr().out
    rows = rows_of(text)
    assert rows["FreeSplatter"][1:3] == ["+0.500 [+0.500, +0.500] decided", "+0.0125 [+0.0125, +0.0125] decided"]
    assert "+0.0 [+0.0, +0.0] undecided" in rows["Ours1"] and "2 seeds" in rows["Ours1"]
    assert f"{archive}: 0123456789ab+" in text and output.read_text().startswith("**Differences from")


def test_one_run_and_its_archived_self(sweep_copy: Path, archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = ids_of(sweep_copy)["Ours1, seed 1"]
    main([str(archive / f"{run_id}.10"), str(sweep_copy.parent / "runs" / run_id)])
    (row,) = [row for name, row in rows_of(capsys.readouterr().out).items() if name]
    assert row[-1] == f"{SCENES} scenes, one seed" and row[1].endswith("one seed only")


def test_results_folders_and_other_runs(sweep_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(sweep_copy.parent), str(sweep_copy)])
    assert "Ours1" in rows_of(capsys.readouterr().out)
    ids = ids_of(sweep_copy)
    main([str(sweep_copy.parent / "runs" / ids[label]) for label in ("FreeSplatter, seed 0", "Ours1, seed 0")])
    (row,) = [row for name, row in rows_of(capsys.readouterr().out).items() if name]
    assert row[0] == "FreeSplatter / Ours1" and "encoder croco (conv)" in row[1]


def test_a_loss_term_of_one_run_alone_is_named(sweep_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (sweep_copy.parent / "runs" / ids_of(sweep_copy)[f"FreeSplatter, seed {seed}"] for seed in (0, 1))
    content = read_json(second / "spec.json")
    content["spec"]["losses"]["extra"] = {"name": "extra", "weight": 0.5}
    write_json(second / "spec.json", content)
    main([str(first), str(second)])
    assert "extra 0.5 (–)" in capsys.readouterr().out


def test_other_scenes_are_named(sweep_copy: Path, archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in archive.glob(f"*/evals/{PROTOCOL.key}.json"):
        write_json(path, evaluation(18.0, 14.0, scenes=4))
    main([str(archive), str(sweep_copy)])
    assert "evaluated on different scenes (4, 16); compared on 4 of both" in capsys.readouterr().out


def test_what_cannot_be_compared_is_refused(sweep_copy: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least two folders"):
        main([str(sweep_copy)])
    with pytest.raises(UserError, match="has no results: name a sweep's folder"):
        main([str(sweep_copy), str(tmp_path / "nothing")])
    lone = tmp_path / "lone" / "runs" / "x"
    write_json(lone / "spec.json", {"id": "x", "label": "other", "spec": {"seed": 0}})
    with pytest.raises(UserError, match=r"no id and no label .* name two folders of single runs"):
        main([str(sweep_copy), str(tmp_path / "lone")])
