"""Volume rendering of planes: OpenLRM's own numbers, a field whose integral is known, and its limits."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from support.paths import GOLDEN
from support.rendering_oracle import cameras
from torch import Tensor, nn

from bench.rendering import volume
from bench.rendering.volume import Rays, render_planes
from models.tensors import Cameras, Triplane

GOLDEN_FILE = GOLDEN / "openlrm_render.npz"
DENSITY = 3.0


class Constant(nn.Module):
    """The same color and density everywhere in the box."""

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        before = math.log(math.expm1(DENSITY)) + 1  # softplus(x − 1) = DENSITY
        shape = features.shape[:-1]
        return torch.tensor([0.2, 0.5, 0.8]).expand(*shape, 3), torch.full((*shape, 1), before)


def field(decoder: nn.Module, extent: float = 0.4) -> Triplane:
    draw = torch.Generator().manual_seed(0)
    return Triplane(torch.randn(1, 3, 4, 8, 8, generator=draw).requires_grad_(), decoder, extent)


def mlp() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
            values = self.net(features)
            return values[..., 1:].sigmoid(), 4 * values[..., :1]

    return Decoder()


def ahead(extent: float) -> Cameras:
    """A camera two units in front of the box, looking at it along z."""
    view = torch.eye(4)[None, None].clone()
    view[..., 2, 3] = 2.0
    return Cameras(view, torch.tensor([[30.0, 0, 8], [0, 30, 8], [0, 0, 1]])[None, None], 16, 16)


def test_a_constant_field_has_the_alpha_of_its_chord() -> None:
    """The ray through the middle crosses 2 · extent of constant density."""
    extent = 0.4
    image = render_planes(field(Constant(), extent), ahead(extent), torch.ones(1, 1, 3), samples=256)
    rays = volume.rays_of(Cameras(*(getattr(ahead(extent), k)[0] for k in ("world_to_camera", "intrinsics")), 16, 16))
    near, far, hits = volume.box_limits(rays, extent)
    expected = (1 - torch.exp(-DENSITY * (far - near))) * hits
    torch.testing.assert_close(image.alpha.flatten(), expected, atol=0.02, rtol=0)
    inside = hits.reshape(16, 16)
    color = image.rgb[0, 0][:, inside] - (1 - image.alpha[0, 0][inside])
    torch.testing.assert_close(color / image.alpha[0, 0][inside], torch.tensor([[0.2], [0.5], [0.8]]).expand_as(color))
    assert (image.rgb[0, 0][:, ~inside] == 1).all() and (image.depth[0, 0][~inside] == 0).all()
    front, back = 2 - extent, 2 + extent
    assert front < float(image.depth[0, 0, 8, 8]) < back


def test_chunks_change_nothing_and_gradients_are_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = mlp()
    background = torch.zeros(1, 2, 3)
    gradients = []
    for size in (volume.CHUNK, 4000):
        monkeypatch.setattr(volume, "CHUNK", size)
        planes = field(decoder)
        image = render_planes(planes, cameras(view=2), background, samples=32)
        torch.autograd.backward(image.rgb.square().sum() + (image.depth * image.alpha).sum())
        assert image.alpha.max() > 0.1 and planes.planes.grad is not None
        gradients.append((image.rgb.detach(), planes.planes.grad))
    assert all(tensor.isfinite().all() for pair in gradients for tensor in pair)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)
    assert all(parameter.grad is not None for parameter in decoder.parameters())


def test_cameras_follow_the_convention_of_the_rasterizer() -> None:
    """A field that is dense at one place appears where the projection of that place lies."""

    class Dot(nn.Module):
        def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
            return torch.ones(*features.shape[:-1], 3), 40 * features[..., :1] * features[..., 4:5] - 5

    planes = torch.zeros(1, 3, 4, 32, 32)
    planes[0, 0, 0, 22:27, 18:23] = planes[0, 1, 0, 14:19, 18:23] = 1  # xy: row y ≈ 24; xz: row z ≈ 16; column x ≈ 20
    place = (torch.tensor([20.0, 24.0, 16.0]) + 0.5) / 16 - 1
    cams = cameras(view=1, width=40, height=40)
    image = render_planes(Triplane(planes, Dot(), 1.0), cams, torch.zeros(1, 1, 3), samples=256)
    projected = cams.intrinsics[0, 0] @ (cams.world_to_camera[0, 0, :3, :3] @ place + cams.world_to_camera[0, 0, :3, 3])
    y, x = (image.alpha[0, 0] > 0.5).nonzero().float().mean(0) + 0.5
    assert (projected[:2] / projected[2] - torch.stack([x, y])).abs().max() < 1


@pytest.mark.skipif(not GOLDEN_FILE.is_file(), reason="tests/golden/openlrm_render.npz is not there")
def test_numbers_of_openlrm() -> None:
    golden = np.load(GOLDEN_FILE)
    config = json.loads(str(golden["config"]))
    given = {key[3:]: torch.from_numpy(golden[key]) for key in golden.files if key.startswith("in/")}
    out = {key[4:]: torch.from_numpy(golden[key]) for key in golden.files if key.startswith("out/")}
    weights = [torch.from_numpy(golden[key]) for key in golden.files if key.startswith("sd/decoder")]

    def decoder(features: Tensor) -> tuple[Tensor, Tensor]:
        for i in range(0, len(weights), 2):
            features = features @ weights[i].T + weights[i + 1]
            features = features.relu() if i + 2 < len(weights) else features
        return features[..., 1:].sigmoid() * 1.002 - 0.001, features[..., :1]

    planes, points = given["planes"][0], given["points"][0]
    features = volume.plane_features(planes, points)
    expected = out["point_plane_features"][0].permute(1, 0, 2).flatten(1)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=0)
    size, views = config["region"] ** 2, config["views"]
    for view in range(views):
        origins, directions = out["ray_origins"][view], out["ray_directions"][view]
        rays = Rays(origins, directions, torch.ones(len(origins)))
        importance = given["importance_noise"][view * size : (view + 1) * size]
        noise = given["stratified_noise"][view, ..., 0], importance
        sums = volume.march(planes, decoder, 1.0, rays, config["samples"], noise)
        alpha, background = sums[:, 4], given["backgrounds"][0, view]
        rgb = (sums[:, :3] + background * (1 - alpha[:, None])).T.reshape(3, config["region"], config["region"])
        hits = volume.box_limits(rays, 1.0)[2].reshape(config["region"], config["region"])
        torch.testing.assert_close(rgb[:, hits], out["images_rgb"][0, view][:, hits], atol=1e-5, rtol=0)
        weight = out["images_weight"][0, view, 0]
        torch.testing.assert_close(alpha.reshape_as(weight)[hits], weight[hits], atol=1e-5, rtol=0)
        seen = hits & (weight > 1e-2)
        depth = (sums[:, 3] / alpha.clamp_min(1e-10)).reshape_as(weight)
        torch.testing.assert_close(depth[seen], out["images_depth"][0, view, 0][seen], atol=1e-4, rtol=0)
