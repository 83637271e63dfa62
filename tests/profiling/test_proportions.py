"""Table 3's models are the paper's in miniature: parameters, blocks, tokens and cost at tiny and small scale."""

import pytest
from support.paths import ROOT

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
