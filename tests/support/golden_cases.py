"""The arrays of tests/golden, and published files of the public keys and shapes that take no room."""

from __future__ import annotations

import argparse
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from support.paths import GOLDEN


class Case:
    """An npz: random weights of a public class under its own keys, inputs, and the outputs of the class."""

    def __init__(self, name: str, folder: Path = GOLDEN) -> None:
        self.name, self.folder = name, folder
        self.arrays = np.load(folder / f"{name}.npz")
        self.config: dict[str, Any] = json.loads(str(self.arrays["config"]))

    def __getitem__(self, key: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[key])

    def state(self) -> dict[str, torch.Tensor]:
        return {key[3:]: self[key] for key in self.arrays.files if key.startswith("sd/")}

    @property
    def tolerance(self) -> float:
        """What manifest.json beside the file suggests, or 1e-5."""
        manifest = self.folder / "manifest.json"
        cases = json.loads(manifest.read_text()) if manifest.is_file() else {}
        return float(cases.get(self.name, {}).get("suggested_tolerance", "1e-5").split()[0])

    def check(self, ours: torch.Tensor, key: str) -> None:
        """`ours` against the output of that name, within the case's tolerance."""
        theirs = self[f"out/{key}"]
        assert ours.shape == theirs.shape, f"{key}: {tuple(ours.shape)} is not {tuple(theirs.shape)}"
        difference = float((ours.detach() - theirs).abs().max() / max(1.0, float(theirs.abs().max())))
        assert difference <= self.tolerance, f"{key}: {difference:.1e} is more than {self.tolerance:.0e}"


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    difference = (ours.detach() - theirs).abs().max() / max(1.0, float(theirs.abs().max()))
    assert difference <= 1e-5


@cache
def layouts() -> dict[str, Any]:
    """Published files by name: count, parameters and {key: shape}; `#24` in a key stands for 0 to 23."""
    content: dict[str, Any] = json.loads((GOLDEN / "published_layouts.json").read_text())
    return content


def tensors(name: str) -> dict[str, torch.Tensor]:
    """All of a published file's tensors at their full shapes, each one stored number."""
    state = {}
    for key, shape in layouts()[name]["tensors"].items():
        repeated = re.search(r"#(\d+)", key)
        keys = [key.replace(repeated[0], str(i)) for i in range(int(repeated[1]))] if repeated else [key]
        state |= {one: torch.zeros(1).expand([int(n) for n in shape.split("x")]) for one in keys}
    assert len(state) == layouts()[name]["count"]
    return state


def save(path: Path, state: dict[str, torch.Tensor], *, wrapped: bool = True) -> Path:
    """As naver saves: the tensors below `model`, beside an argparse.Namespace with paths, and training state."""
    arguments = argparse.Namespace(model="AsymmetricMASt3R(pos_embed='RoPE100')", lr=1e-4, output_dir=Path("x/y"))
    training_state = {
        "args": arguments,
        "epoch": 9,
        "best_so_far": np.float64(0.5),
        "optimizer": {"state": {}, "groups": [1]},
    }
    torch.save({"model": state, **training_state} if wrapped else state, path)
    return path
