"""Table 3's right-hand columns for one GPU's share of the batch, in every regime; other configurations, for estimates.

Weights are random: only the positions of the Gaussians make their cost differ from that of trained weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bench.common.paths import SOURCE
from bench.profiling.gpu.suite import Measurement, Suite

if TYPE_CHECKING:
    from bench.config.schema import RunSpec

SCENES = 8  # a GPU: the paper's batch of 32 on four
FEW_SCENES = ("data=procedural", "data.training_scenes=16", "data.validation_scenes=0", "data.evaluation_scenes=1")
MODELS = ("ours2", "freesplatter", "ours1")  # of Table 3
GB, GIB = 10**9, 2**30  # bytes; the paper does not say which of them its GB are
MEMORY = ("allocated_peak_memory", "reserved_peak_memory", "device_memory")
REGIMES: dict[str, tuple[str, ...]] = {
    "paper": (),
    "lean": ("train.regime=lean",),
    "lean, micro-batches of 4": ("train.regime=lean", "train.micro_batch=4"),
}


@dataclass(frozen=True)
class Case:
    """A base at the paper's size with `scenes` scenes a step, and what is changed."""

    part: str
    name: str
    base: str
    scenes: int = SCENES
    overrides: tuple[str, ...] = ()

    def spec(self, suite_is_tiny: bool) -> RunSpec:
        """Nothing of `init` is read."""
        from bench import config
        from bench.config.schema import InitSpec

        scenes = min(self.scenes, 4) if suite_is_tiny else self.scenes
        given = [*FEW_SCENES, "views.choice=rig", f"train.batch={scenes}", *self.overrides]
        path = SOURCE / "ablations" / "base" / f"{self.base}.yaml"
        (run,) = config.load(path, given, "tiny" if suite_is_tiny else "paper").runs
        return replace(run.spec, init=InitSpec())


CASES = (
    *(Case("cost", f"{model}, {regime}", model, overrides=overrides)
      for model in MODELS for regime, overrides in REGIMES.items()),
    Case("estimates", "ours2, 2 scenes", "ours2", 2),
    Case("estimates", "freesplatter, blocks recomputed", "freesplatter", 4, ("train.recompute.aggregator=block",)),
    Case("estimates", "vggt, 2 scenes", "vggt", 2),
    Case("estimates", "splatt3r, 4 scenes", "splatt3r", 4),
    Case("estimates", "lrm, 2 scenes", "lrm", 2),
    Case("estimates", "ours1, 4 scenes, micro-batches", "ours1", 4, ("train.micro_batch=1",)),
)  # fmt: skip


def measurements(part: str) -> list[Measurement]:
    """Of "cost" or "estimates"."""

    def measurement(case: Case) -> Measurement:
        return Measurement(part, case.name, lambda suite: measure_case(suite, case), 40)

    return [measurement(case) for case in CASES if case.part == part]


def measure_case(suite: Suite, case: Case) -> dict[str, Any]:
    """The profile, its estimate ÷ measured, and what Table 3 says. Memory ÷ the paper's takes its GB as 10⁹ bytes."""
    import torch

    from bench.data.sampler import open_source
    from bench.profiling.step_profile import measure

    suite.background.require()
    spec = case.spec(suite.tiny)
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in spec.model.build().parameters())
    source = open_source(spec.data, spec.model.image_size, progress=False)
    result = measure(spec, device=suite.device, source=source) | {"parameters": parameters, "overrides": case.overrides}
    memory = {kind: result[f"{kind}_gib"] for kind in MEMORY if result[f"{kind}_gib"] is not None}
    result["estimate_to_measured"] = ratios(result["estimate"] or {}, result)
    if paper := suite.paper.get(case.base) if case.part == "cost" else None:
        result |= {
            "paper": dict(paper),
            "ratio_to_paper": {kind: gib * GIB / (paper["gpu_gb"] * GB) for kind, gib in memory.items()},
        }
    return result | {"summary": _summary(result, memory)}


def _summary(result: Mapping[str, Any], memory: Mapping[str, float]) -> str:
    cells = [f"{result['step_time_ms']:.0f} ms a step, MFU {result['mfu']:.0%}"]
    cells += [f"{kind.partition('_')[0]} {gib:.2f} GiB" for kind, gib in memory.items()]
    for title, name in (("÷ the paper's", "ratio_to_paper"), ("estimate ÷ measured", "estimate_to_measured")):
        values = [f"{kind.partition('_')[0]} {ratio:.2f}" for kind, ratio in result.get(name, {}).items()]
        cells += [f"{title}: {', '.join(values)}"] if values else []
    return "; ".join(cells)


def ratios(estimate: dict[str, Any], measured: dict[str, Any]) -> dict[str, float]:
    """Estimate ÷ measured of all that both have."""
    names = [f"{kind}_gib" for kind in MEMORY] + ["step_time_ms"]
    return {name: estimate[name] / measured[name] for name in names if estimate.get(name) and measured.get(name)}


def prepare(names: Sequence[str], tiny: bool, device_type: str) -> None:
    """What needs no GPU of these cases: scenes, and the traces of estimates, which are kept in the cache."""
    from bench.data.sampler import open_source
    from bench.profiling.estimate.estimate import cached_step_cost

    for case in CASES:
        if case.name in names:
            spec = case.spec(tiny)
            open_source(spec.data, spec.model.image_size, progress=False)
            cached_step_cost(spec, 1, "cpu" if device_type == "cpu" else "cuda")
