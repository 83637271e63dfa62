"""What a sweep would run, counted without weights: the dry run's rows."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Any

from bench.common.disk import disk_usage_of_run
from bench.config.build import to_dict
from bench.config.spec_files import base_files
from bench.config.user_files import missing_files

if TYPE_CHECKING:
    from bench.config.sweep import Sweep
    from models.ead import EADSpec


@cache
def count(model: EADSpec) -> dict[str, int]:
    """Trained parameters of E, A, D and in total, from a build on the meta device; once for each distinct model."""
    import torch

    from models.ead import count_parameters

    with torch.device("meta"):
        return count_parameters(model.build())


@cache
def describe(sweep: Sweep) -> list[dict[str, Any]]:
    """One row a run, ready for JSON, resolved once a sweep.

    Keys: id, label, scale, settings, spec, base, parents, parameters {encoder, aggregator, head, total}, disk_bytes
    {training, kept}, tokens_per_scene, and missing_files (sentences: what must be fixed before it can start).
    """
    return [
        {
            "id": run.id,
            "label": run.label,
            "scale": run.scale,
            "settings": run.settings,
            "spec": to_dict(run.spec),
            "base": run.origin["base"],
            "parents": list(run.parents),
            "parameters": dict(count(run.spec.model)),
            "disk_bytes": asdict(
                disk_usage_of_run(count(run.spec.model)["total"], run.spec.train.keep, run.spec.train.steps)
            ),
            "tokens_per_scene": run.spec.model.tokens_per_scene(run.spec.views.inputs),
            "missing_files": missing_files(run.spec),
        }
        for run in sweep.runs
    ]


def bases_at_paper_scale(sweep: Sweep) -> dict[str, dict[str, Any]]:
    """base → its resolved spec at scale `paper`, as a report compares runs with it."""
    from bench.config.sweep import load

    files = base_files(sweep.path.parent)
    names = dict.fromkeys(run.origin["base"] for run in sweep.runs)
    paths = {name: files.get(name, sweep.path) for name in names}  # a base that is run as it is lies anywhere
    return {name: to_dict(load(path, scale="paper").runs[0].spec) for name, path in paths.items()}
