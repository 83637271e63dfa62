"""Encoder, aggregator, head: the paper's models, without YAML, data sets, losses or clusters."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.ead import EAD as EAD
    from models.tensors import Gaussians as Gaussians
    from models.tensors import Views as Views
    from models.weights import load as load

_HOMES = {"EAD": "models.ead", "Gaussians": "models.tensors", "Views": "models.tensors", "load": "models.weights"}


def __getattr__(name: str) -> Any:
    """Import on first use, so that commands which only read specs and records do not load torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'models' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
