"""Parity with the public classes on tiny random weights: tests/golden/README.md names each class and commit."""

from __future__ import annotations

import pytest
import torch
from support.golden_cases import Case, assert_close

from models import published
from models.aggregators import self_attention
from models.ead import EADSpec, Precision
from models.encoders import conv, croco
from models.heads import dpt, linear
from models.layers import rope_angles, rotate
from models.outputs import gaussians
from models.tensors import Dense, Tokens, TokenSpec, Views

FULL = Precision(aggregator="fp32", head="fp32")


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
    published.load_layout(encoder, case.state(), published.croco_encoder(), name)
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
    published.load_layout(model, case.state(), published.freesplatter(), name)
    views = Views(case["in/images"])
    dense = model.head(model.aggregator(model.encoder(views), None, model.levels), views)
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
    head = spec.build([TokenSpec(dim, 16) for dim in dims], {"raw": 4})
    assert published.load_layout(head, case.state(), published.dpt_head("dpt."), name) == []
    rows, cols = height // 16, width // 16
    taps = [Tokens(case[f"in/level{tap:02d}"].unflatten(1, (1, rows, cols))) for tap in spec.taps]
    dense = head(taps, Views(torch.zeros(c["batch"], 1, 3, height, width)))
    assert_close(dense.channels["raw"][:, 0].permute(0, 3, 1, 2), case["out/raw"])


def test_the_papers_dpt_has_its_size() -> None:
    """20,548,183 parameters with four taps of width 1024 (Ours2), the unread unit of the coarsest fusion counted."""
    with torch.device("meta"):
        head = dpt.Spec().build([TokenSpec(1024, 16)] * 4, gaussians.Spec().channels())
    assert sum(p.numel() for p in head.parameters()) == 20_548_183
