"""Weights in and out: a trained model's folder, and published checkpoints under their public keys.

Loading is strict: the first missing, extra or mis-shaped key is named. Nothing pickled is read here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.ead import EAD, EADSpec

State = Mapping[str, Tensor]
SPEC_FILE, WEIGHTS_FILE = "model.json", "weights.safetensors"

# Public key → ours, first match wins; a public key that no pattern of a table matches is not the part's.
CROCO_ENCODER = (
    (r"patch_embed\.proj\.(\w+)", r"patchify.\1"),
    (r"enc_blocks\.(\d+)\.mlp\.fc1\.(\w+)", r"blocks.\1.mlp.0.\2"),
    (r"enc_blocks\.(\d+)\.mlp\.fc2\.(\w+)", r"blocks.\1.mlp.2.\2"),
    (r"enc_blocks\.(\d+)\.(.+)", r"blocks.\1.\2"),
    (r"enc_norm\.(\w+)", r"norm.\1"),
)
DPT_HEAD = (
    (r"act_postprocess\.(\d)\.(\d)\.(\w+)", r"reassemble.\1.\2.\3"),
    (r"scratch\.layer_rn\.(\d)\.(\w+)", r"project.\1.\2"),
    (r"scratch\.refinenet1\.(.+)", r"fuse.0.\1"),
    (r"scratch\.refinenet2\.(.+)", r"fuse.1.\1"),
    (r"scratch\.refinenet3\.(.+)", r"fuse.2.\1"),
    (r"scratch\.refinenet4\.(.+)", r"fuse.3.\1"),
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
UNITS = {"resConfUnit1": "skip", "resConfUnit2": "refine", "out_conv": "out"}


class WeightsError(Exception):
    """A checkpoint that does not fit: the first offending key, and what was expected."""


def save_spec(model: EAD, path: Path) -> None:
    """The spec, as JSON: the `model.json` of a folder that `load` reads."""
    path.write_text(json.dumps(model.spec.to_dict(), indent=1) + "\n")


def save_weights(model: EAD, path: Path) -> None:
    """The parameters: its `weights.safetensors`."""
    save_file({key: value.detach().contiguous().cpu() for key, value in model.state_dict().items()}, path)


def load(folder: str | Path, device: str | torch.device = "cpu") -> EAD:
    """A trained model from a run's folder, ready for inference. Raises WeightsError."""
    folder = Path(folder)
    for name in (SPEC_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise WeightsError(f"{folder} holds no {name}: it is not the folder of a run that finished training")
    spec = EADSpec.from_dict(json.loads((folder / SPEC_FILE).read_text()))
    with torch.device("meta"):
        model = spec.build()
    fill(model, load_file(folder / WEIGHTS_FILE, device=str(device)), source=str(folder / WEIGHTS_FILE))
    return model.eval()


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
    module.load_state_dict(dict(state), strict=True, assign=next(iter(wanted.values())).is_meta)


def croco_encoder(public: State) -> dict[str, Tensor]:
    """CroCo's, DUSt3R's or MASt3R's state dict → that of `encoder: croco`; decoders and heads are left out."""
    return _rename(public, CROCO_ENCODER)


def dpt_head(public: State, prefix: str = "dpt.") -> dict[str, Tensor]:
    """DUSt3R's DPT (keys below `prefix`) → that of `head: dpt`; `scratch.layerN_rn` is stored twice there."""
    renamed = _rename({k.removeprefix(prefix): v for k, v in public.items() if k.startswith(prefix)}, DPT_HEAD)
    return {re.sub("|".join(UNITS), lambda unit: UNITS[unit[0]], key): value for key, value in renamed.items()}


def freesplatter(public: State) -> dict[str, Tensor]:
    """FreeSplatter's state dict → that of a whole EAD of conv, self_attention (reference_source) and linear."""
    state = _rename({key.removeprefix("transformer."): value for key, value in public.items()}, FREESPLATTER)
    embeddings = [state.pop(f"aggregator.{name}_embed", None) for name in ("ref", "src")]
    if embeddings[0] is not None and embeddings[1] is not None:
        state["aggregator.view_embedding"] = torch.cat([e.reshape(1, -1) for e in embeddings if e is not None])
    if (table := state.get("aggregator.table")) is not None:
        side = round(table.shape[-2] ** 0.5)
        state["aggregator.table"] = table.reshape(side, side, -1)
    return state


PUBLISHED: Mapping[tuple[str, str], Callable[[State], dict[str, Tensor]]] = {("encoder", "croco"): croco_encoder}


def _rename(public: State, table: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    renamed = {}
    for key, value in public.items():
        for pattern, ours in table:
            if match := re.fullmatch(pattern, key):
                renamed[match.expand(ours)] = value
                break
    return renamed
