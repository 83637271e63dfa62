"""Weights in and out: a trained model's folder, and users' checkpoint files, read without executing anything.

Loading is strict: the first missing, extra or mis-shaped key is named. Public keys: models/published/.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.ead import EAD, EADSpec
from models.published import Layout, State, WeightsError, differences, freesplatter

SPEC_FILE, WEIGHTS_FILE = "model.json", "weights.safetensors"
SCHEMA_VERSION = 1
PARTS = ("encoder.", "aggregator.", "head.", "output.")
CONTAINERS = ("model", "state_dict", "model_state_dict")  # the key below which torch files keep the tensors
WRAPPERS = ("module", "_orig_mod", "model", "net", "network")  # DistributedDataParallel, torch.compile, Lightning

ALLOWED_PICKLE_GLOBALS = (  # what published files keep beside the tensors; anything else is refused
    "argparse.Namespace", "pathlib.Path", "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath",
    "numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
)  # fmt: skip


class PickleStub:
    """Replaces each of ALLOWED_PICKLE_GLOBALS: accepts any arguments, does nothing, stores nothing."""

    def __new__(cls, *_: object, **__: object) -> PickleStub:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


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
            raise WeightsError(
                f"{folder} holds no {name}: it is not the folder of a run that finished training (results/runs/ID), or "
                "the file was deleted; then train the run again (--force)"
            )
    spec, state, source = load_spec(folder), read_own(folder / WEIGHTS_FILE), str(folder / WEIGHTS_FILE)
    with torch.device("meta"):  # neither memory nor random numbers for weights that are replaced
        model = spec.build()
    validate_state_dict(model, state, source)
    expected = model.state_dict()
    model.load_state_dict({key: value.to(expected[key].dtype) for key, value in state.items()}, assign=True)
    if any(_on_meta(module) for module in model.modules()):  # what is no part of the state dict only building makes
        model = spec.build(seed=0)
        load_strict(model, state, source)
    return model.to(device).eval()


def read_own(path: Path) -> dict[str, Tensor]:
    """The tensors that `save_weights` wrote. Raises WeightsError for a damaged file."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path} is damaged ({error}): copy it again, or train the run again (--force)") from error


def _on_meta(module: nn.Module) -> bool:
    """Whether a tensor that the module holds, by itself or in a dict, list or tuple, has no values."""
    for value in vars(module).values():  # parameters and buffers are in dicts
        items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else [value]
        if any(isinstance(item, Tensor) and item.is_meta for item in items):
            return True
    return False


def load_spec(folder: Path) -> EADSpec:
    """The model of a run's folder, unbuilt. Raises WeightsError for a newer version's."""
    values = json.loads((folder / SPEC_FILE).read_text())
    if (version := values.pop("schema_version", 1)) > SCHEMA_VERSION:
        raise WeightsError(
            f"{folder / SPEC_FILE} has schema version {version}, newer than this code's {SCHEMA_VERSION}"
        )
    return EADSpec.from_dict(values)


def load_strict(module: nn.Module, state: State, source: str) -> None:
    """Give a module these tensors, strictly. Raises WeightsError naming the first key that does not fit."""
    validate_state_dict(module, state, source)
    module.load_state_dict(dict(state), strict=True)


def validate_state_dict(module: nn.Module, state: State, source: str) -> None:
    """Whether `load_strict` would succeed; the module may be on the meta device. Raises WeightsError."""
    expected = module.state_dict()
    for key, tensor in expected.items():
        if key not in state:
            raise WeightsError(f"{source}: {key} is missing (expected {tuple(tensor.shape)})")
        if state[key].shape != tensor.shape:
            raise WeightsError(f"{source}: {key} has shape {tuple(state[key].shape)}, expected {tuple(tensor.shape)}")
    if extra := [key for key in state if key not in expected]:
        raise WeightsError(f"{source}: {extra[0]} belongs to no parameter of this model")
    require_finite(state, source)


def require_finite(state: State, source: str) -> None:
    """Raises WeightsError naming the first tensor with a value that is NaN or infinite."""
    for key, tensor in state.items():
        if not tensor.is_meta and (bad := int((~tensor.isfinite()).sum())):
            raise WeightsError(f"{source}: {bad} of {tensor.numel()} values of {key} are NaN or infinite")


@dataclass(frozen=True)
class Checkpoint:
    """A file's tensors under the names that they have in the model; `wrapping`: what was taken off, outermost first."""

    state: dict[str, Tensor]
    wrapping: tuple[str, ...] = ()


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors or torch file, on the CPU: `read_checkpoint` without what was taken off."""
    return read_checkpoint(path).state


def read_checkpoint(path: Path) -> Checkpoint:
    """The tensors of a safetensors or torch file, on the CPU, without the containers and prefixes around them.

    Containers are those of CONTAINERS, prefixes those of WRAPPERS that every key has. A file with several state dicts,
    or of which only some keys have such a prefix, is refused: it does not say which tensors are the model's.

    Files are mapped into memory, so that only tensors which are used are read; a torch file from before version 1.6, a
    bare pickle, is read whole. Nothing pickled is executed: torch reads weights alone, and what published files keep
    beside them becomes a PickleStub. Raises WeightsError.
    """
    try:
        content = _read_torch(path) if _is_torch(path) else load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path} is neither a torch file nor safetensors ({error})") from error
    state, containers = _open_containers(content, path)
    if wrong := [key for key, value in state.items() if not isinstance(value, Tensor)]:
        raise WeightsError(f"{path} holds no plain state dict: {wrong[0]} is no tensor")
    if wrong := [key for key in state if not isinstance(key, str)]:
        raise WeightsError(f"{path} holds no plain state dict: its key {wrong[0]!r} is no name")
    state, prefixes = _strip_prefixes(state, path)
    return Checkpoint(state, (*containers, *prefixes))


def _is_torch(path: Path) -> bool:
    """A zip archive or, from before torch 1.6, a bare pickle; safetensors begins with the length of its header."""
    if path.suffix == ".safetensors":
        return False
    with path.open("rb") as file:
        start = file.read(9)
    return zipfile.is_zipfile(path) or (start[:1] == b"\x80" and start[8:] != b"{")


def _read_torch(path: Path) -> object:
    try:
        with torch.serialization.safe_globals([(PickleStub, name) for name in ALLOWED_PICKLE_GLOBALS]):
            content: object = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # torch raises many kinds for damaged or unsafe files
        reason = str(error).strip().splitlines()
        detail = next((line for line in reason if "GLOBAL" in line or "reduce" in line), reason[0] if reason else "")
        raise WeightsError(
            f"{path} cannot be read as weights alone, and nothing else of it is run: {detail}"
        ) from error
    return content


def _open_containers(content: object, path: Path) -> tuple[dict[Any, Any], list[str]]:
    """The innermost dict, and the keys that lead to it. Raises WeightsError where there are several state dicts."""
    opened: list[str] = []
    while isinstance(content, Mapping):
        inside = [key for key in content if key in CONTAINERS and isinstance(content[key], Mapping)]
        if not inside:
            return dict(content), opened
        states = [str(key) for key, value in content.items() if key in inside or _is_state_dict(value)]
        if len(states) > 1:
            raise WeightsError(
                f"{path} holds several state dicts, {' and '.join(states)}: save the one you mean as a file of its own"
            )
        opened.append(inside[0])
        content = content[inside[0]]
    raise WeightsError(f"{path} holds no state dict but a {type(content).__name__}")


def _is_state_dict(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(item, Tensor) for item in value.values())


def _strip_prefixes(state: dict[str, Tensor], path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The keys without the WRAPPERS that all of them begin with, and these. Raises WeightsError where only some do."""
    stripped: list[str] = []
    while found := [name for name in WRAPPERS if any(key.startswith(f"{name}.") for key in state)]:
        prefix = f"{found[0]}."
        if others := [key for key in state if not key.startswith(prefix)]:
            raise WeightsError(
                f"{path}: some keys begin with {prefix} and others, such as {others[0]}, do not: "
                "save the tensors of the model alone, under its own names"
            )
        state = {key.removeprefix(prefix): value for key, value in state.items()}
        stripped.append(prefix)
    return state, stripped


def is_ours(state: State) -> bool:
    """Whether the keys are those of `save_weights`; Splatt3R's and NoPoSplat's files begin with encoder. alone."""
    return all(key.startswith(PARTS) for key in state) and not all(key.startswith("encoder.") for key in state)


def part_of(state: State, part: str) -> dict[str, Tensor]:
    """One part's tensors of a whole model's, or all for "model"."""
    prefix = "" if part == "model" else f"{part}."
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def export(module: nn.Module, path: Path, layout: Layout | None = None) -> None:
    """A part, or a whole EAD (FreeSplatter's layout is the default), to safetensors under its public keys.

    Raises WeightsError for a model that the layout cannot hold.
    """
    layout = layout or freesplatter()
    if isinstance(module, EAD) and (different := differences(module.spec, layout, ignored=("heads",))):
        raise WeightsError(f"{path} cannot hold this model: {', '.join(different)}")
    public = layout.to_public(module.state_dict())
    save_file({key: value.detach().cpu().clone().contiguous() for key, value in public.items()}, path)
