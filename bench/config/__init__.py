"""YAML → typed specs → a graph of runs.

`load` gives a Sweep or raises ConfigError with every problem; `describe` counts its runs; `to_dict` and `from_dict` are
what a run's folder keeps. Files, in the order in which a spec passes them: read (YAML with lines) → spec_files →
merge (precedence), spec_fields (what a key leads to), convert (types) → grid, filters (the sweep) → build → validate →
run_id, graph, naming; sweep.py joins them. schema: the typed spec.
"""

from bench.config.build import from_dict, to_dict
from bench.config.describe import bases_at_paper_scale, describe
from bench.config.merge import SCALES
from bench.config.run_id import canonical_json, run_id
from bench.config.schema import RunSpec
from bench.config.sweep import Run, Sweep, load
from bench.config.user_files import missing_files, verify_files

__all__ = [
    "SCALES", "Run", "RunSpec", "Sweep", "bases_at_paper_scale", "canonical_json", "describe", "from_dict", "load",
    "missing_files", "run_id", "to_dict", "verify_files",
]  # fmt: skip
