"""DINO, DINOv2 and VGG16. Names and shapes: facebookresearch/dino, facebookresearch/dinov2, torchvision."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.published.layout import Layout, Names, Section, State, WeightsError, of_sections, rename

DINO: Names = (
    ("cls_token", "class_token"),
    ("register_tokens", "registers"),
    ("mask_token", "mask_token"),
    ("patch_embed.proj.{}", "patchify.{}"),
    ("blocks.{}.mlp.fc1.{}", "blocks.{}.mlp.0.{}"),
    ("blocks.{}.mlp.fc2.{}", "blocks.{}.mlp.2.{}"),
    ("blocks.{}.attn.{}.{}", "blocks.{}.attn.{}.{}"),
    ("blocks.{}.norm{}.{}", "blocks.{}.norm{}.{}"),
    ("blocks.{}.ls{}.gamma", "blocks.{}.scale{}.gamma"),
    ("norm.{}", "norm.{}"),
)


def dino_encoder() -> Layout:
    """`encoder: dino` from DINO's or DINOv2's backbone files; heads of DINO's training file are refused."""
    return Layout("DINO's and DINOv2's encoder", dict, _to_ours, _to_public)


def _to_ours(public: State) -> dict[str, Tensor]:
    state = dict(public)
    position = state.pop("pos_embed")[0]
    side = math.isqrt(len(position) - 1)
    state = rename(state, DINO)
    tokens = {key: state[key][0] for key in ("class_token", "registers") if key in state}
    return state | tokens | {"class_position": position[:1], "table": position[1:].reshape(side, side, -1)}


def _to_public(ours: State) -> dict[str, Tensor]:
    state = dict(ours)
    table = torch.cat([state.pop("class_position"), state.pop("table").flatten(0, 1)])
    tokens = {key: state[key][None] for key in ("class_token", "registers") if key in state}
    return rename(state | tokens, DINO, back=True) | {"pos_embed": table[None]}


def vgg16_encoder() -> Layout:
    """`encoder: cnn` from the convolutions of torchvision's VGG16; what stands after them here is new."""
    layout = of_sections("VGG16", Section("", "", (("features.{}.{}", "features.{}.{}"), ("{}.{}", "{}.{}"))))

    def select(public: State) -> dict[str, Tensor]:
        if not (tensors := {key: value for key, value in public.items() if key.startswith("features.")}):
            raise WeightsError("holds no VGG16, whose keys begin with features.")
        return tensors

    return Layout(
        layout.name,
        select,
        layout.to_ours,
        layout.to_public,
        optional=r"features\.\d+\.\w+",
        added=r"(norm|project)\.\w+",
    )
