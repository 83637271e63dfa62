"""Parity with the public classes on tiny random weights (tests/golden/README.md says where they come from)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models import weights
from models.aggregators import self_attention
from models.ead import EADSpec, Precision
from models.encoders import conv, croco
from models.heads import dpt, linear
from models.layers import rope_angles, rotate
from models.outputs import gaussians
from models.tensors import Dense, Tokens, TokenSpec, Views

GOLDEN = Path(__file__).parent / "golden"
FULL = Precision(aggregator="fp32", head="fp32")


class Case:
    def __init__(self, name: str) -> None:
        self.arrays = np.load(GOLDEN / f"{name}.npz")
        self.config: dict[str, Any] = json.loads(str(self.arrays["config"]))

    def __getitem__(self, key: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[key])

    def state(self) -> dict[str, torch.Tensor]:
        return {key[3:]: self[key] for key in self.arrays.files if key.startswith("sd/")}


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    difference = (ours.detach() - theirs).abs().max() / max(1.0, float(theirs.abs().max()))
    assert difference <= 1e-5


def test_rope2d() -> None:
    case = Case("rope2d")
    x, where = case["in/x"], case["in/positions"]
    for i in range(len(x)):
        cos, sin = rope_angles(where[i], case.config["head_dim"], case.config["base"])
        assert_close(rotate(x[i : i + 1], cos, sin), case["out/rotated"][i : i + 1])


@pytest.mark.parametrize("name", ["croco_encoder_square", "croco_encoder_nonsquare"])
def test_croco_encoder(name: str) -> None:
    case = Case(name)
    c = case.config
    encoder = croco.Spec(patch=c["patch"], width=c["dim"], blocks=c["depth"], heads=c["heads"]).build()
    weights.fill(encoder, weights.croco_encoder(case.state()), name)
    tokens = encoder(Views(((case["in/image"] + 1) / 2)[:, None])).grid
    assert_close(tokens.flatten(1, 3), case["out/tokens"])


@pytest.mark.parametrize("name", ["freesplatter_table_size", "freesplatter_half_size", "freesplatter_larger_size"])
def test_freesplatter(name: str) -> None:
    case = Case(name)
    c = case.config
    spec = EADSpec(
        conv.Spec(patch=c["patch"], width=c["dim"]),
        self_attention.Spec(blocks=c["depth"], heads=c["heads"], table_size=c["table_image"]),
        linear.Spec(),
        gaussians.Spec(),
        image_size=c["image"][0],
        precision=FULL,
    )
    model = spec.build(0)
    weights.fill(model, weights.freesplatter(case.state()), name)
    views = Views(case["in/images"])
    dense = model.head(model.aggregator(model.encoder(views), model.levels), views)
    assert_close(torch.cat(list(dense.channels.values()), dim=-1), case["out/output"])


def test_gaussian_activations() -> None:
    case = Case("freesplatter_gaussians")
    output = gaussians.Spec(sh_degree=1).build()
    raw = case["in/raw"][None, None, None]
    groups = dict(zip(output.spec.channels(), raw.split(list(output.spec.channels().values()), dim=-1), strict=True))
    made = output(Dense(groups), Views(torch.zeros(1, 1, 3, 1, raw.shape[3])))
    assert_close(made.means[0, 0, 0], case["out/means"])
    assert_close(made.harmonics[0, 0, 0], case["out/sh_or_colour"])
    assert_close(made.opacities[0, 0, 0], case["out/opacities"][:, 0])
    assert_close(made.scales[0, 0, 0], case["out/scales"])
    assert_close(made.rotations[0, 0, 0], case["out/quaternions_wxyz"])


@pytest.mark.parametrize("name", ["dust3r_dpt_head_odd", "dust3r_dpt_head_even"])
def test_dpt_head(name: str) -> None:
    case = Case(name)
    c, (height, width) = case.config, case.config["image"]
    spec = dpt.Spec(
        taps=(0, 6, 9, 12),
        layer_dims=tuple(c["dpt"]["layer_dims"]),
        features=c["dpt"]["feature_dim"],
        last_dim=c["dpt"]["last_dim"],
    )
    dims = [c["enc_dim"], c["dec_dim"], c["dec_dim"], c["dec_dim"]]
    head = spec.build([TokenSpec(dim, 16) for dim in dims], height, {"raw": 4})
    weights.fill(head, weights.dpt_head(case.state()), name)
    rows, cols = height // 16, width // 16
    taps = [Tokens(case[f"in/level{tap:02d}"].unflatten(1, (1, rows, cols))) for tap in spec.taps]
    dense = head(taps, Views(torch.zeros(c["batch"], 1, 3, height, width)))
    assert_close(dense.channels["raw"][:, 0].permute(0, 3, 1, 2), case["out/raw"])


def test_the_papers_dpt_has_its_size() -> None:
    """20,548,183 parameters with four taps of width 1024 (Ours2), the unread unit of the coarsest fusion counted."""
    with torch.device("meta"):
        head = dpt.Spec().build([TokenSpec(1024, 16)] * 4, 256, gaussians.Spec().channels())
    assert sum(p.numel() for p in head.parameters()) == 20_548_183


STRICT = {  # a case, its conversion, a key of it, that key's name here, a key that does not belong
    "croco_encoder_square": (weights.croco_encoder, "enc_norm.bias", "norm.bias", "enc_more.bias"),
    "freesplatter_half_size": (weights.freesplatter, "norm.weight", "aggregator.norm.weight", "blocks.0.bias"),
    "dust3r_dpt_head_even": (weights.dpt_head, "dpt.head.2.bias", "conv2.bias", "dpt.head.9.bias"),
}


@pytest.mark.parametrize("name", STRICT)
def test_published_checkpoints_load_strictly(name: str) -> None:
    convert, key, ours, more = STRICT[name]
    state = Case(name).state()
    module = Stored(convert(state))
    weights.fill(module, convert(state), name)
    with pytest.raises(weights.WeightsError, match=f"{ours} is missing"):
        weights.fill(module, convert({k: v for k, v in state.items() if k != key}), name)
    with pytest.raises(weights.WeightsError, match=f"{ours} has shape"):
        weights.fill(module, convert(state | {key: torch.zeros(3, 3)}), name)
    with pytest.raises(weights.WeightsError, match=f"{more.removeprefix('dpt.')} is not known"):
        convert(state | {more: torch.zeros(1)})


class Stored(torch.nn.Module):
    """A module with the state dict that is given."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.state = state

    def state_dict(self) -> dict[str, torch.Tensor]:  # type: ignore[override]
        return self.state

    def load_state_dict(self, state: dict[str, torch.Tensor], strict: bool = True) -> None:  # type: ignore[override]
        self.state = state


def test_a_layer_of_dpt_stored_once_is_enough() -> None:
    state = Case("dust3r_dpt_head_odd").state()
    once = {key: value for key, value in state.items() if ".layer_rn." not in key}
    assert weights.dpt_head(once).keys() == weights.dpt_head(state).keys()
