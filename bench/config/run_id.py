"""A run's id: a hash of what decides it, the same on every machine and under every later version."""

from __future__ import annotations

import hashlib
import json

from bench.config.build import serialize
from bench.config.schema import RunSpec


def run_id(spec: RunSpec) -> str:
    """The first 12 hex digits of the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical_json(spec).encode()).hexdigest()[:12]


def canonical_json(spec: object) -> str:
    """Keys sorted, no white space, floats by repr; without fields marked `identity: False` or at their legacy value."""
    return json.dumps(serialize(spec, identity=True), sort_keys=True, separators=(",", ":"), allow_nan=False)
