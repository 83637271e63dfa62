"""Weights in and out: a trained model's folder, and published checkpoints under their public keys.

Loading is strict: the first missing, extra or mis-shaped key is named. Nothing pickled is read here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.ead import EAD, EADSpec

State = Mapping[str, Tensor]
SPEC_FILE, WEIGHTS_FILE = "model.json", "weights.safetensors"
SCHEMA_VERSION = 1

# Public key → ours, first match wins.
CROCO_ENCODER = (
    (r"patch_embed\.proj\.(\w+)", r"patchify.\1"),
    (r"enc_blocks\.(\d+)\.mlp\.fc1\.(\w+)", r"blocks.\1.mlp.0.\2"),
    (r"enc_blocks\.(\d+)\.mlp\.fc2\.(\w+)", r"blocks.\1.mlp.2.\2"),
    (r"enc_blocks\.(\d+)\.(.+)", r"blocks.\1.\2"),
    (r"enc_norm\.(\w+)", r"norm.\1"),
)
DPT_HEAD = (
    (r"act_postprocess\.(\d)\.(\d)\.(\w+)", r"reassemble.\1.\2.\3"),
    *((rf"scratch\.(?:layer{n}_rn|layer_rn\.{n - 1})\.(\w+)", rf"project.{n - 1}.\1") for n in (1, 2, 3, 4)),
    *((rf"scratch\.refinenet{n}\.resConfUnit1\.(.+)", rf"fuse.{n - 1}.skip.\1") for n in (1, 2, 3, 4)),
    *((rf"scratch\.refinenet{n}\.resConfUnit2\.(.+)", rf"fuse.{n - 1}.refine.\1") for n in (1, 2, 3, 4)),
    *((rf"scratch\.refinenet{n}\.out_conv\.(.+)", rf"fuse.{n - 1}.out.\1") for n in (1, 2, 3, 4)),
    (r"head\.0\.(\w+)", r"conv1.\1"),
    (r"head\.2\.(\w+)", r"conv2.\1"),
    (r"head\.4\.(\w+)", r"out.\1"),
)
FREESPLATTER = (
    (r"patchify\.weight", r"encoder.patchify.weight"),
    (r"pos_embed", r"aggregator.table"),
    (r"(ref_embed|src_embed)", r"aggregator.\1"),
    (r"blocks\.(\d+)\.self_attn\.to_([qkv])\.weight", r"aggregator.blocks.\1.attn.\2.weight"),
    (r"blocks\.(\d+)\.self_attn\.to_out\.0\.weight", r"aggregator.blocks.\1.attn.proj.weight"),
    (r"blocks\.(\d+)\.ff\.([02])\.weight", r"aggregator.blocks.\1.mlp.\2.weight"),
    (r"blocks\.(\d+)\.(norm[12])\.weight", r"aggregator.blocks.\1.\2.weight"),
    (r"norm\.weight", r"aggregator.norm.weight"),
    (r"unpatchify\.(\w+)", r"head.linear.\1"),
)


class WeightsError(Exception):
    """A checkpoint that does not fit: the first offending key, and what was expected."""


def save_spec(model: EAD, path: Path) -> None:
    """The spec, as JSON: the `model.json` of a folder that `load` reads."""
    path.write_text(json.dumps({"schema_version": SCHEMA_VERSION, **model.spec.to_dict()}, indent=1) + "\n")


def save_weights(model: EAD, path: Path) -> None:
    """The parameters: its `weights.safetensors`."""
    save_file({key: value.detach().contiguous().cpu() for key, value in model.state_dict().items()}, path)


def load(folder: str | Path, device: str | torch.device = "cpu") -> EAD:
    """A trained model from a run's folder, ready for inference. Raises WeightsError."""
    folder = Path(folder)
    for name in (SPEC_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise WeightsError(f"{folder} holds no {name}: it is not the folder of a run that finished training")
    values = json.loads((folder / SPEC_FILE).read_text())
    if (version := values.pop("schema_version", 1)) > SCHEMA_VERSION:
        raise WeightsError(
            f"{folder / SPEC_FILE} has schema version {version}, newer than this code's {SCHEMA_VERSION}"
        )
    model = EADSpec.from_dict(values).build(seed=0)
    fill(model, load_file(folder / WEIGHTS_FILE), source=str(folder / WEIGHTS_FILE))
    return model.to(device).eval()


def fill(module: nn.Module, state: State, source: str) -> None:
    """Give a module these tensors, strictly. Raises WeightsError naming the first key that does not fit."""
    wanted = module.state_dict()
    for key, tensor in wanted.items():
        if key not in state:
            raise WeightsError(f"{source}: {key} is missing (expected {tuple(tensor.shape)})")
        if state[key].shape != tensor.shape:
            raise WeightsError(f"{source}: {key} has shape {tuple(state[key].shape)}, expected {tuple(tensor.shape)}")
    if extra := [key for key in state if key not in wanted]:
        raise WeightsError(f"{source}: {extra[0]} belongs to no parameter of this model")
    module.load_state_dict(dict(state), strict=True)


def croco_encoder(public: State) -> dict[str, Tensor]:
    """CroCo's, DUSt3R's or MASt3R's state dict → that of `encoder: croco`; decoders and heads are left out."""
    return _rename({k: v for k, v in public.items() if k.startswith(("patch_embed.", "enc_"))}, CROCO_ENCODER)


def dpt_head(public: State, prefix: str = "dpt.") -> dict[str, Tensor]:
    """DUSt3R's DPT (keys below `prefix`) → that of `head: dpt`; `scratch.layerN_rn` may be stored twice there."""
    return _rename({k.removeprefix(prefix): v for k, v in public.items() if k.startswith(prefix)}, DPT_HEAD)


def freesplatter(public: State) -> dict[str, Tensor]:
    """FreeSplatter's state dict → that of a whole EAD of conv, self_attention (reference_source) and linear."""
    state = _rename({key.removeprefix("transformer."): value for key, value in public.items()}, FREESPLATTER)
    embeddings = [state.pop(f"aggregator.{name}_embed", None) for name in ("ref", "src")]
    if embeddings[0] is not None and embeddings[1] is not None:
        state["aggregator.view_embedding"] = torch.cat([e.reshape(1, -1) for e in embeddings if e is not None])
    if (table := state.get("aggregator.table")) is not None:
        side = math.isqrt(table.shape[-2])
        if side**2 != table.shape[-2]:
            raise WeightsError(f"pos_embed has shape {tuple(table.shape)}, which is no square table")
        state["aggregator.table"] = table.reshape(side, side, -1)
    return state


PUBLISHED: Mapping[tuple[str, str], Callable[[State], dict[str, Tensor]]] = {("encoder", "croco"): croco_encoder}


def _rename(public: State, table: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    """Every key by the first pattern that matches it; a key without one is an error."""
    renamed = {}
    for key, value in public.items():
        matches = ((re.fullmatch(pattern, key), ours) for pattern, ours in table)
        name = next((match.expand(ours) for match, ours in matches if match), None)
        if name is None:
            raise WeightsError(f"{key} is not known in this kind of checkpoint")
        renamed[name] = value
    return renamed
