"""A run's id: a hash of what decides it, the same on every machine and under every later version."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from typing import Any

from bench.config.build import serialize
from bench.config.schema import RunSpec


def run_id(spec: RunSpec) -> str:
    """The first 12 hex digits of the SHA-256 of the canonical JSON, followed by the costs' where they are studied."""
    text = canonical_json(spec)
    if spec.study == "cost":
        text += json.dumps(costs(spec), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def costs(spec: RunSpec) -> dict[str, Any]:
    """{"train.micro_batch": …}: what decides what a step costs, not what it computes, where it is not the default."""
    values = {f: getattr(spec.train, f.name) for f in fields(spec.train) if "cost" in f.metadata}
    return {f"train.{f.name}": serialize(value) for f, value in values.items() if value != f.default}


def canonical_json(spec: object) -> str:
    """Keys sorted, no white space, floats by repr; without fields marked `identity: False` or at their legacy value."""
    return json.dumps(serialize(spec, identity=True), sort_keys=True, separators=(",", ":"), allow_nan=False)
