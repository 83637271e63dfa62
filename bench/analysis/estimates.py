"""Estimate ÷ measured: how far a run's estimated cost lay from its profile."""

from __future__ import annotations

import statistics

from bench.analysis.sweep_results import SweepResults, SweepRun

COMPARED = {"allocated_peak_memory_gib": "allocated", "reserved_peak_memory_gib": "reserved", "step_time_ms": "step"}


def estimate_ratios(sweep: SweepResults) -> dict[str, str]:
    """{setting: "allocated 1.01, step 0.62"}, means over seeds; without settings for which nothing can be compared."""
    texts = {}
    for label, runs in sweep.groups().items():
        ratios = [_ratios(run) for run in runs]
        values = {title: [ratio[name] for ratio in ratios if name in ratio] for name, title in COMPARED.items()}
        if any(values.values()):
            texts[label] = ", ".join(f"{title} {statistics.fmean(v):.2f}" for title, v in values.items() if v)
    return texts


def _ratios(run: SweepRun) -> dict[str, float]:
    profile = next(iter(run.folder.profiles().values()), {})
    estimate = profile.get("estimate") or {}
    return {name: estimate[name] / profile[name] for name in COMPARED if estimate.get(name) and profile.get(name)}
