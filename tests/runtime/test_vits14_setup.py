"""The ViT-S/14 of `python -m bench.setup --dinov2`: read from an ONNX file without its package, renamed for `dino`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import bench.setup
from bench.common.errors import UserError
from bench.runtime import lpips_weights, vits14_download
from models import published
from models.encoders import dino

WIDTH, SIDE = 8, 3


def field(number: int, value: bytes | int) -> bytes:
    """Of a protobuf message; numbers below 128."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    length = len(value)
    size = b""
    while length > 127:
        size, length = size + bytes([length & 127 | 128]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + value


def tensor(name: str, array: NDArray[np.float32]) -> bytes:
    shape = b"".join(field(1, side) for side in array.shape)
    return field(5, shape + field(2, 1) + field(8, name.encode()) + field(9, array.astype("<f4").tobytes()))


def node(operator: str, inputs: list[str], output: str) -> bytes:
    texts = b"".join(field(1, name.encode()) for name in inputs)
    return field(1, texts + field(2, output.encode()) + field(4, operator.encode()))


def onnx_file(state: dict[str, NDArray[np.float32]]) -> bytes:
    """A ViT of one block as Hugging Face exports it: weights of linear maps transposed and nameless."""
    layer, entries = "backbone.encoder.layer.0.", []
    names = {
        "cls_token": "backbone.embeddings.cls_token",
        "patch_embed.proj.weight": "backbone.embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "backbone.embeddings.patch_embeddings.projection.bias",
        "norm.weight": "backbone.layernorm.weight",
        "norm.bias": "backbone.layernorm.bias",
        "blocks.0.ls1.gamma": layer + "layer_scale1.lambda1",
        "blocks.0.ls2.gamma": layer + "layer_scale2.lambda1",
        **{f"blocks.0.norm{n}.{x}": f"{layer}norm{n}.{x}" for n in (1, 2) for x in ("weight", "bias")},
    }
    entries += [tensor(theirs, state[ours]) for ours, theirs in names.items()]
    entries += [tensor("decoder.final_conv.bias", np.ones(1, np.float32))]
    entries += [
        tensor("onnx::Reshape_2", state["pos_embed"][:, 1:]),
        tensor("onnx::Concat_1", state["pos_embed"][:, :1]),
    ]
    qkv = zip(("query", "key", "value"), np.split(state["blocks.0.attn.qkv.weight"], 3),
              np.split(state["blocks.0.attn.qkv.bias"], 3), strict=True)  # fmt: skip
    linear = [(f"{layer}attention.attention.{part}", weight, bias) for part, weight, bias in qkv]
    others = {"attn.proj": "attention.output.dense", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    linear += [(layer + theirs, state[f"blocks.0.{ours}.weight"], state[f"blocks.0.{ours}.bias"])
               for ours, theirs in others.items()]  # fmt: skip
    for number, (name, weight, bias) in enumerate(linear):
        entries += [tensor(f"onnx::MatMul_{number}", weight.T), tensor(f"{name}.bias", bias)]
        entries += [node("MatMul", ["x", f"onnx::MatMul_{number}"], f"/{number}"),
                    node("Add", [f"{name}.bias", f"/{number}"], "x")]  # fmt: skip
    return field(1, 7) + field(7, b"".join(entries))


def test_an_onnx_file_becomes_the_encoder(tmp_path: Path) -> None:
    encoder = dino.Spec(version="dinov2", patch=2, width=WIDTH, heads=1, blocks=1, table_size=2 * SIDE).build()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter)
    torch.nn.init.zeros_(encoder.mask_token)
    layout = published.dino_encoder()
    state = {key: value.numpy() for key, value in layout.to_public(encoder.state_dict()).items()}
    arrays = vits14_download.to_dinov2(vits14_download.read_onnx(onnx_file(state)))
    assert arrays.keys() == state.keys()
    assert all(np.array_equal(array, state[name]) for name, array in arrays.items())
    loaded = dino.Spec(version="dinov2", patch=2, width=WIDTH, heads=1, blocks=1, table_size=2 * SIDE).build()
    public = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    assert published.load_layout(loaded, public, layout, "file") == []


def test_another_file_is_refused_and_nothing_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EAD_BENCH_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"has sha256 .* expected 198644e37de36674"):
        vits14_download.store(b"another")
    assert not [*tmp_path.rglob("*.*")]


def test_the_command_says_how_to_use_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second call fetches nothing."""
    monkeypatch.setenv("EAD_BENCH_CACHE", str(tmp_path))
    for file in (*map(lpips_weights.path, lpips_weights.NETS), vits14_download.path()):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"x")
    assert bench.setup.main(["--dinov2"]) == 0
    text = capsys.readouterr().out
    assert f"init.encoder={{weights: {vits14_download.path()}, sha256: 2d711642" in text
    assert "whether these are Meta's weights unchanged" in vits14_download.MODEL_CARD
