"""Traced costs by content: the spec's fields that decide them, and the code that was traced."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from bench.common.errors import UserError
from bench.common.files import is_writable
from bench.common.json_files import read_json, write_json
from bench.common.paths import cache_dir, code_hash
from bench.config.build import to_dict

if TYPE_CHECKING:
    from bench.config.schema import RunSpec

CODE = ("models", "bench/rendering", "bench/outputs", "bench/losses", "bench/training", "bench/runtime",
        "bench/profiling/estimate", "bench/profiling/flops.py", "bench/data/batch.py")  # fmt: skip
WITHOUT_COST = (
    "steps", "learning_rate", "final_learning_rate", "warmup_steps", "betas", "weight_decay", "gradient_clip",
    "geometry_first", "checkpoint_every", "tensorboard", "keep", "validations", "regime",
)  # fmt: skip


def cached(spec: RunSpec, ranks: int, target: str, trace: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """What `trace` gave for the same cost-relevant spec and code, or gives now."""
    path = cache_dir() / "estimates" / f"{content_hash(spec, ranks, target)}.json"
    if path.is_file():
        try:
            return read_json(path)
        except UserError:
            path.unlink()
    content = trace()
    if is_writable(path.parent):
        write_json(path, content)
    return content


def content_hash(spec: RunSpec, ranks: int, target: str) -> str:
    content = to_dict(spec)
    train = {name: value for name, value in content["train"].items() if name not in WITHOUT_COST}
    views = {name: content["views"][name] for name in ("inputs", "targets", "training_targets")}
    decisive = [content["model"], content["losses"], views, train, ranks, target, *_code()]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:24]


@cache
def _code() -> tuple[str, str]:
    return torch.__version__, code_hash(CODE)
