"""YAML → typed specs → a graph of runs.

`load` gives a Sweep or raises ConfigError with every problem; `describe` its dry run; `to_dict` and `from_dict` what a run
folder keeps. Files: read (YAML with lines) → documents, layers (precedence), places (what a key leads to), convert
(types) → expand, where (the sweep) → build → rules → graph, identity, labels.
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
