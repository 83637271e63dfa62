"""Table 3's models are the paper's in miniature: parameters, blocks, tokens and cost at tiny and small scale."""

import json
from pathlib import Path

import pytest
from support.paths import ROOT

import bench.run
from bench import proportions as command
from bench.profiling.proportions import Proportions, proportions

TABLE3 = ROOT / "ablations" / "table3.yaml"
PARAMETERS = {"Ours1": 1.50, "Ours2": 1.55}  # Table 3's 461M and 475M over 307M


@pytest.fixture(scope="module")
def rows() -> dict[tuple[str, str], Proportions]:
    return {(row.scale, row.label): row for row in proportions(TABLE3, ("tiny", "small"))}


@pytest.mark.parametrize("scale", ["tiny", "small"])
def test_a_scale_has_the_papers_proportions(rows: dict[tuple[str, str], Proportions], scale: str) -> None:
    free_splatter, ours1, ours2 = (rows[scale, name] for name in ("FreeSplatter", "Ours1", "Ours2"))
    for ours in (ours1, ours2):
        assert ours.parameter_ratio == pytest.approx(PARAMETERS[ours.label], rel=0.1)
        assert ours.encoder_blocks == 2 * ours.aggregator_blocks
        assert free_splatter.aggregator_blocks == 2 * ours.aggregator_blocks
        assert free_splatter.tokens == 4 * ours.tokens
        assert ours.gflop_ratio < 0.5
    assert ours1.gflop < ours2.gflop <= 1.35 * ours1.gflop


def test_the_command_prints_every_scale(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(TABLE3)]) == 0
    printed = capsys.readouterr().out
    for text in ("| tiny | FreeSplatter |", "| small | Ours1 |", "| paper | Ours2 |", "307,941,824", "475,718,231"):
        assert text in printed


def test_the_docs_hold_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 0
    assert capsys.readouterr().out in (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("scale", ["tiny", "small"])
def test_a_dry_run_of_the_models_prints_their_ratios(scale: str, capsys: pytest.CaptureFixture[str]) -> None:
    bench.run.main([str(TABLE3), "--scale", scale, "--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("Proportions to FreeSplatter, tiny : small : paper (counts: python -m bench.proportions):")
    (ours1, ours2) = (
        [f"{row.parameter_ratio:.2f}" for row in proportions(TABLE3) if row.label == label]
        for label in ("Ours1", "Ours2")
    )
    assert lines[start + 1].startswith(f"- Ours1: parameters {' : '.join(ours1)}, forward FLOPs 0.")
    assert lines[start + 2].startswith(f"- Ours2: parameters {' : '.join(ours2)}, forward FLOPs 0.")
    bench.run.main([str(TABLE3), "--scale", scale, "model.head.bias=false", "--only", "FreeSplatter*", "--dry-run"])
    assert "Proportions" not in capsys.readouterr().out  # of other models


def test_small_with_its_pretraining_fits_a_quarter_of_an_hour_of_one_h100(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At an efficiency that the estimate names, and at 2.5 times its time."""
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("partition: x\ngpus: 1\ngpu_type: h100\n")
    assert bench.run.main([str(TABLE3), "--scale", "small", "--estimate", "--json", "--slurm", str(cluster)]) == 0
    estimates = [row["estimate"] for row in json.loads(capsys.readouterr().out)]
    assert len(estimates) == 4 and estimates[0]["hardware"]["card"].startswith("H100")
    assert 0 < 60 * sum(estimate["hours"]["high"] for estimate in estimates) <= 15
