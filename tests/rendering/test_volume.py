"""Volume rendering of feature planes: parity with OpenLRM's renderer, and what its callers rely on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from support.golden_cases import Case
from torch import Tensor

from bench.common.errors import UserError
from bench.rendering import volume
from models.outputs import triplane
from models.tensors import Cameras, Triplane

OPENGL = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))  # to OpenCV's axes, and back


def planes_of(case: Case) -> Triplane:
    decoder = triplane.PlaneDecoder(triplane.Spec(features=case.config["plane_dim"]))
    decoder.load_state_dict({key.removeprefix("decoder."): value for key, value in case.state().items()})
    return Triplane(
        case["in/planes"].repeat_interleave(case.config["views"], 0), decoder, samples=case.config["samples"]
    )


def rays_of(case: Case) -> tuple[Tensor, Tensor]:
    """Of the case's regions, (view, ray, 3), through this harness's cameras."""
    c, region = case.config, case.config["region"]
    camera_to_world = case["in/cameras"][0, :, :16].unflatten(-1, (4, 4)) @ OPENGL
    intrinsics = (
        case["in/cameras"][0, :, 16:].unflatten(-1, (3, 3)) * torch.tensor([c["resolution"]] * 2 + [1.0])[:, None]
    )
    origins, directions = Cameras(
        torch.linalg.inv(camera_to_world), intrinsics, c["resolution"], c["resolution"]
    ).rays()
    corners = case["in/anchors"][0].long().tolist()
    regions = [
        view[row : row + region, col : col + region] for view, (row, col) in zip(directions, corners, strict=True)
    ]
    directions = torch.stack(regions).flatten(1, 2)
    return origins[:, None].expand_as(directions), directions


@torch.no_grad()
def test_points_are_openlrms() -> None:
    case = Case("openlrm_render")
    one = replace(planes_of(case), planes=case["in/planes"])
    features = volume.plane_features(one, case["in/points"])
    case.check(features, "point_plane_features")
    rgb, density = one.decoder(rearrange(features, "b p n k -> b n (p k)"))
    case.check(rgb, "point_rgb")
    case.check(F.softplus(density - 1), "point_sigma_activated")


@torch.no_grad()
def test_rendering_is_openlrms() -> None:
    """Rays that miss the cube have no depth here; OpenLRM gives them the largest of all samples."""
    case = Case("openlrm_render")
    origins, directions = rays_of(case)
    case.check(origins, "ray_origins")
    case.check(directions, "ray_directions")
    noise = (case["in/stratified_noise"][..., 0], case["in/importance_noise"].unflatten(0, origins.shape[:2]))
    color, distance, alpha = volume.render_rays(planes_of(case), origins, directions, noise)
    color = color + (1 - alpha) * case["in/backgrounds"][0][:, None]
    size = (case.config["region"], case.config["region"])
    case.check(rearrange(color, "v (h w) c -> 1 v c h w", h=size[0]), "images_rgb")
    case.check(rearrange(alpha, "v (h w) c -> 1 v c h w", h=size[0]), "images_weight")
    hit = alpha > 0
    assert 0 < hit.sum() < hit.numel()
    theirs = case["out/images_depth"].flatten(3)[0].transpose(1, 2)
    assert (distance - theirs)[hit].abs().max() < case.tolerance * theirs.abs().max() and (distance[~hit] == 0).all()


def scene(**changes: Any) -> tuple[Triplane, Cameras, Tensor]:
    torch.manual_seed(0)
    decoder = triplane.PlaneDecoder(triplane.Spec(features=4, hidden=8, layers=2))
    world_to_camera = torch.eye(4).repeat(2, 3, 1, 1)
    world_to_camera[..., 2, 3] = 2.5
    intrinsics = torch.tensor([[6.0, 0, 4], [0, 6.0, 4], [0, 0, 1]]).expand(2, 3, 3, 3)
    planes = torch.randn(2, 3, 4, 8, 8).requires_grad_()
    return Triplane(planes, decoder, **changes), Cameras(world_to_camera, intrinsics, 8, 8), torch.ones(2, 3, 3)


def test_chunks_change_neither_images_nor_gradients() -> None:
    images, gradients = [], []
    for rays in (10**6, 50):
        field, cameras, background = scene(samples=16)
        rendering = volume.render(field, cameras, background, rays_at_once=rays)
        (rendering.rgb.square().mean() + rendering.depth.mean()).backward()
        images.append(rendering.rgb.detach())
        gradients.append([field.planes.grad, *(p.grad for p in field.decoder.parameters())])
    assert torch.allclose(*images, atol=1e-6)
    assert all(torch.allclose(one, other, atol=1e-7) and one.any() for one, other in zip(*gradients, strict=True))


def test_a_solid_cube_has_its_depth_and_silhouette() -> None:
    """Density everywhere in a small cube: opaque in the middle at the cube's face, the background around it."""
    field, cameras, background = scene(extent=0.5, samples=256)

    class Solid(torch.nn.Module):
        def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
            return torch.full((*features.shape[:-1], 3), 0.25), torch.full((*features.shape[:-1], 1), 200.0)

    rendering = volume.render(replace(field, decoder=Solid()), cameras, background)
    assert (rendering.alpha[..., 3:5, 3:5] > 0.999).all() and (rendering.alpha[..., 0, :] == 0).all()
    assert torch.allclose(rendering.depth[..., 3:5, 3:5], torch.tensor(2.0), atol=0.03)
    assert torch.allclose(rendering.rgb[..., 3:5, 3:5], torch.tensor(0.25), atol=1e-3)
    assert (rendering.rgb[..., 0, :] == 1).all() and (rendering.depth[..., 0, :] == 0).all()


def test_shapes_that_do_not_fit_are_refused() -> None:
    field, cameras, background = scene()
    with pytest.raises(UserError, match=r"planes of 2 scenes, cameras \(2, 3\) and background \(1, 3, 3\)"):
        volume.render(field, cameras, background[:1])
