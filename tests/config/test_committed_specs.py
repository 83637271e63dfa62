"""The specs of ablations/: they load at every scale, say how many runs they are, and keep their ids."""

import json
import re
from pathlib import Path

import pytest
from support.paths import GOLDEN

from bench.config import (
    SCALES,
    describe,
    from_dict,
    load,
    run_id,
    to_dict,
)
from bench.config.__main__ import ids
from bench.config.spec_files import BASES

SPECS = sorted(BASES.parent.glob("*.yaml"))
GOLDEN = GOLDEN / "run_ids.json"


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_loads_and_survives_json(path: Path, scale: str) -> None:
    sweep = load(path, scale=scale)
    assert sweep.question.endswith(("?", ")")), f"{path.name} begins with its question, as a comment"
    assert "python -m" not in sweep.question
    assert len({run.label for run in sweep.runs}) == len(sweep.runs)
    for run in sweep.runs:
        again = from_dict(json.loads(json.dumps(to_dict(run.spec))))
        assert again == run.spec
        assert run_id(again) == run.id


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_header_counts_its_runs(path: Path) -> None:
    commands = [line for line in path.read_text().splitlines() if re.match("# python -m bench.(run|search) ", line)]
    assert len(commands) == 2, f"{path.name} has two comment lines `# python -m bench.run ablations/… N runs, …`"
    for command in commands:
        scale = (re.findall(r"--scale (\w+)", command) or ["tiny"])[0]
        (count,) = re.findall(r" (\d+) runs?, ", command)
        assert int(count) == len(load(path, scale=scale).runs)
        assert f"ablations/{path.name}" in command


def test_ids_are_golden() -> None:
    assert ids() == json.loads(GOLDEN.read_text()), (
        f"if that is meant: python -m bench.config > tests/golden/{GOLDEN.name}"
    )


def test_cells_are_shared_between_questions() -> None:
    """A run that two specs ask for is one run: Table 3's models are cells of the factorial."""
    cells = {run.id for run in load(BASES.parent / "table3_factorial.yaml", scale="paper").runs}
    assert {run.id for run in load(BASES.parent / "table3.yaml", scale="paper").runs} <= cells


def test_factorial_keeps_croco_at_patch_8_from_scratch() -> None:
    runs = load(BASES.parent / "table3_factorial.yaml", scale="paper").runs
    inits = {
        (r.settings["model.encoder"], r.settings["model.encoder.patch"], r.spec.init.encoder == "scratch") for r in runs
    }
    assert inits == {
        ("conv", 8, True),
        ("conv", 16, True),
        ("croco", 8, True),
        ("croco", 16, True),
        ("croco", 16, False),
    }


def test_describe_gives_the_papers_parameters() -> None:
    rows = describe(load(BASES.parent / "table3.yaml", scale="paper"))
    assert [row["parameters"]["total"] for row in rows] == [307_941_824, 461_205_248, 475_718_231]
    assert [row["tokens_per_scene"] for row in rows] == [4096, 1024, 1024]
    for row in rows:
        counts = row["parameters"]
        assert counts["encoder"] + counts["aggregator"] + counts["head"] == counts["total"]
    data, weights = rows[1]["missing_files"]
    assert rows[0]["missing_files"] == [data] and "data.root=FOLDER" in data
    assert "weights/MASt3R" in weights and "sha256" in weights
    json.dumps(rows)


def test_table3_at_small_scale_pretrains_its_encoder_first() -> None:
    """None ships for it: E comes from the run that pretrain_encoder.yaml asks for, too."""
    pretraining, free_splatter, *ours = load(BASES.parent / "table3.yaml", scale="small").runs
    assert [run.label for run in (free_splatter, *ours)] == ["FreeSplatter", "Ours1", "Ours2"]
    same = {run.label: run.id for run in load(BASES.parent / "pretrain_encoder.yaml", scale="small").runs}
    assert pretraining.id == same["surface points"] and pretraining.parents == free_splatter.parents == ()
    for run in ours:
        assert run.parents == (pretraining.id,) and run.spec.train.parts.encoder.rate == 0.1
    assert load(BASES.parent / "table3.yaml", scale="small").reference == "FreeSplatter"
