"""Whether a sweep's models have the same proportions at every scale: parameters, blocks, tokens, forward FLOPs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.config import SCALES, Run, load
from bench.config.describe import count
from bench.config.schema import RunSpec
from bench.profiling.estimate.fake_step import batch_of_shapes
from bench.profiling.estimate.torch_internals import FakeTensorMode
from bench.profiling.flops import forward_gflop
from bench.runtime.shapes import build_without_values

HEADINGS = ("scale", "model", "E blocks", "A blocks", "tokens a scene", "parameters", "ratio", "forward GFLOP", "ratio")


@dataclass(frozen=True)
class Proportions:
    """Of one model at one scale; ratios are to the sweep's first model at that scale."""

    scale: str
    label: str
    encoder_blocks: int | None  # None: E has no blocks
    aggregator_blocks: int
    tokens: int  # of a scene
    parameters: int
    parameter_ratio: float
    gflop: float  # 10⁹ operations of a scene's forward pass, without rendering (bench/profiling/flops.py)
    gflop_ratio: float


def proportions(path: Path | str, scales: Sequence[str] = SCALES) -> list[Proportions]:
    """Of every model of a spec, one seed of each. Nothing is computed: tensors have shapes and no values."""
    return [row for scale in scales for row in _at_scale(load(path, ["seeds=[0]"], scale).runs, scale)]


def _at_scale(runs: Sequence[Run], scale: str) -> Iterator[Proportions]:
    first: Proportions | None = None
    for run in runs:
        model = run.spec.model
        side = model.image_size // model.encoder.tokens().patch
        row = Proportions(
            scale, run.label, getattr(model.encoder, "blocks", None), model.aggregator.blocks,
            run.spec.views.inputs * side**2, count(model)["total"], 1.0, gflop(run.spec), 1.0,
        )  # fmt: skip
        first = first or row
        parameter_ratio, gflop_ratio = row.parameters / first.parameters, row.gflop / first.gflop
        yield replace(row, parameter_ratio=parameter_ratio, gflop_ratio=gflop_ratio)


def gflop(spec: RunSpec) -> float:
    """10⁹ operations of a forward pass of one scene."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        return forward_gflop(build_without_values(spec.model.build), batch_of_shapes(spec, 1).inputs)


def markdown(rows: Sequence[Proportions]) -> str:
    """A table with a row a model and scale."""
    lines = [f"| {' | '.join(HEADINGS)} |", "|" + "---|" * len(HEADINGS)]
    for row in rows:
        cells = (
            row.scale, row.label, "–" if row.encoder_blocks is None else row.encoder_blocks, row.aggregator_blocks,
            f"{row.tokens:,}", f"{row.parameters:,}", f"{row.parameter_ratio:.2f}", f"{row.gflop:,.3g}",
            f"{row.gflop_ratio:.2f}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)
