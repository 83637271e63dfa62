"""Published checkpoints under their public keys ⇄ our parts and models."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from models.published.croco import (
    croco,
    croco_decoder,
    croco_encoder,
    dpt_head,
    dust3r_dpt,
    dust3r_linear,
    grouped_head,
    mast3r,
    noposplat,
    splatt3r,
)
from models.published.freesplatter import freesplatter, is_freesplatter
from models.published.layout import Layout, State, WeightsError, differences, load_layout, validate_layout
from models.published.vision import dino_encoder, vgg16_encoder

__all__ = [
    "LAYOUTS",
    "Layout",
    "State",
    "WeightsError",
    "croco",
    "croco_decoder",
    "croco_encoder",
    "differences",
    "dino_encoder",
    "dpt_head",
    "dust3r_dpt",
    "dust3r_linear",
    "freesplatter",
    "grouped_head",
    "is_freesplatter",
    "load_layout",
    "mast3r",
    "noposplat",
    "splatt3r",
    "validate_layout",
    "vgg16_encoder",
    "whole_model",
]

LAYOUTS: Mapping[tuple[str, str], Callable[[], Layout]] = {  # (part, choice): whose published checkpoints are known
    ("encoder", "croco"): croco_encoder,
    ("encoder", "dino"): dino_encoder,
    ("encoder", "cnn"): vgg16_encoder,
    ("aggregator", "cross_attention"): croco_decoder,
    ("head", "dpt"): dpt_head,
    ("head", "dpt_groups"): grouped_head,
}
WHOLE_MODELS: tuple[tuple[str, Callable[[], Layout]], ...] = (  # what one of a file's keys begins with; the first wins
    ("encoder.gaussian_param_head.", noposplat),
    ("encoder.downstream_head1.gaussian_dpt.", splatt3r),
    ("downstream_head1.head_local_features.", mast3r),
    ("downstream_head1.dpt.", dust3r_dpt),
    ("downstream_head1.proj.", dust3r_linear),
    ("prediction_head.", croco),
)


def whole_model(public: State) -> Layout | None:
    """Which published model a file holds, by its keys; None if it is none that is known."""
    if is_freesplatter(public):
        return freesplatter()
    for start, layout in WHOLE_MODELS:
        if any(key.startswith(start) for key in public):
            return layout()
    return None
