"""Weights that ship with the code: NAME.safetensors, and NAME.json saying whose they are and how they were made.

`init: {encoder: {shipped: NAME}}` uses one; `python -m bench.ship RUN NAME` writes one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from models.published import WeightsError

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Card:
    """`part`: encoder, aggregator or head; `spec`: its fields, by name; `facts`: what the model card says of it."""

    name: str
    part: str
    spec: Mapping[str, Any]
    sha256: str
    facts: Mapping[str, Any]


def names() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


@cache
def card(name: str) -> Card:
    """The card of one of `names()`."""
    values = json.loads((FOLDER / f"{name}.json").read_text())
    return Card(name, values["part"], values["spec"], values["sha256"], values["facts"])


def read(name: str) -> dict[str, Tensor]:
    """The tensors in float32. Raises WeightsError for a file that is absent or not the one that the card describes."""
    path = FOLDER / f"{name}.safetensors"
    if not path.is_file():
        raise WeightsError(f"{path} is missing: check out the repository again")
    if (actual := hashlib.sha256(path.read_bytes()).hexdigest()) != card(name).sha256:
        raise WeightsError(
            f"{path} is not the file that {name}.json describes (its sha256 is {actual}): check it out again"
        )
    try:
        return {key: value.float() for key, value in load_file(path).items()}
    except SafetensorError as error:
        raise WeightsError(f"{path} is damaged ({error}): check out the repository again") from error


def encode(state: Mapping[str, Tensor]) -> bytes:
    """The content of a file: the tensors in float16, which halves it."""
    return save({key: value.to(torch.float16).contiguous() for key, value in state.items()})
