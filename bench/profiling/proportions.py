"""Whether a sweep's models have the same proportions at every scale: parameters, blocks, tokens, forward FLOPs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.config import SCALES, Run, Sweep, load
from bench.config.describe import count
from bench.config.schema import RunSpec
from bench.config.spec_files import BASES
from bench.profiling.estimate.cache import cached
from bench.profiling.estimate.fake_step import batch_of_shapes
from bench.profiling.estimate.torch_internals import FakeTensorMode
from bench.profiling.flops import forward_gflop
from bench.runtime.shapes import build_without_values
from models.ead import EADSpec

TABLE_3 = BASES.parent / "table3.yaml"
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
    """Of every model of a spec, one seed of each, without runs that others start from. Nothing is computed: tensors
    have shapes and no values."""
    return [row for scale in scales for row in _at_scale(load(path, ["seeds=[0]"], scale).runs, scale)]


def _at_scale(runs: Sequence[Run], scale: str) -> Iterator[Proportions]:
    first: Proportions | None = None
    for run in _final(runs):
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
    """10⁹ operations of a forward pass of one scene; kept for models and code that are the same."""

    def count_operations() -> dict[str, float]:
        with FakeTensorMode(allow_non_fake_inputs=True):
            return {"gflop": forward_gflop(build_without_values(spec.model.build), batch_of_shapes(spec, 1).inputs)}

    return float(cached(spec, 1, "forward", count_operations)["gflop"])


def _final(runs: Sequence[Run]) -> list[Run]:
    """Without those that others start from: pretraining is no model of its own."""
    parents = {parent for run in runs for parent in run.parents}
    return [run for run in runs if run.id not in parents]


def compact(sweep: Sweep) -> list[str]:
    """The ratios of Table 3's models at all scales in a few lines, for a smaller sweep of these very models; else
    nothing."""
    models = _models(sweep.runs)
    if sweep.scale == "paper" or len(models) != 3 or models != _models(load(TABLE_3, (), sweep.scale).runs):
        return []
    by_label: dict[str, list[Proportions]] = {}
    for row in proportions(TABLE_3):
        by_label.setdefault(row.label, []).append(row)
    first, *others = by_label
    scales = " : ".join(row.scale for row in by_label[first])
    return [f"Proportions to {first}, {scales} (counts: python -m bench.proportions):"] + [
        f"- {label}: parameters {' : '.join(f'{row.parameter_ratio:.2f}' for row in by_label[label])}, "
        f"forward FLOPs {' : '.join(f'{row.gflop_ratio:.2f}' for row in by_label[label])}"
        for label in others
    ]


def _models(runs: Sequence[Run]) -> set[tuple[EADSpec, int]]:
    return {(run.spec.model, run.spec.views.inputs) for run in _final(runs)}


def markdown(rows: Sequence[Proportions]) -> str:
    """A table with a row a model and scale."""
    lines = [f"| {' | '.join(HEADINGS)} |", "|" + "---|" * len(HEADINGS)]
    for row in rows:
        cells = (
            row.scale, row.label, "–" if row.encoder_blocks is None else row.encoder_blocks, row.aggregator_blocks,
            f"{row.tokens:,}", f"{row.parameters:,}", f"{row.parameter_ratio:.2f}",
            f"{row.gflop:,.0f}" if row.gflop >= 100 else f"{row.gflop:.3g}",
            f"{row.gflop_ratio:.2f}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)
