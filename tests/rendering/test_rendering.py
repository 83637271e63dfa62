"""Every back end against a dense float64 rasterizer, gsplat's own torch code and the golden files."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from support.paths import GOLDEN
from support.rendering_oracle import CASES, FIELDS, assert_close, cameras, change, gradients, leaves_of, oracle, scene
from torch import Tensor

from bench.common.errors import UserError
from bench.rendering import (
    compiled,
    reference,
    render,
    spherical_harmonics,
)
from bench.rendering.interface import RasterInput
from models.tensors import Cameras, Gaussians

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="gsplat needs a CUDA device")
BACKENDS = ["compiled", "reference", pytest.param("gsplat", marks=[pytest.mark.gpu, CUDA])]

each_backend = pytest.mark.parametrize("backend", BACKENDS)


def device_of(backend: str) -> str:
    return "cuda" if backend == "gsplat" else "cpu"


@each_backend
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(backend: str, case: str) -> None:
    gaussians, cams = CASES[case][0](), CASES[case][1]()
    shape = (*cams.world_to_camera.shape[:2], 3)
    background = torch.rand(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
    exact, single = leaves_of(gaussians, torch.float64), leaves_of(gaussians, torch.float32, device_of(backend))
    plain = background.detach().double().requires_grad_()
    truth = oracle(exact, cams, plain, 0.01, 100.0)
    device = device_of(backend)
    rendered = render(single, cams.to(device), background.to(device), backend=backend)  # type: ignore[arg-type]
    for name in ("rgb", "depth", "alpha"):
        assert_close(getattr(rendered, name), getattr(truth, name), name)
    if case == "nothing visible":
        assert rendered.alpha.max() == 0 and rendered.depth.max() == 0
        assert_close(rendered.rgb, plain[..., None, None].expand_as(truth.rgb), "background", 1e-6)
    expected = gradients(truth, [*(getattr(exact, f) for f in FIELDS), plain])
    actual = gradients(rendered, [*(getattr(single, f) for f in FIELDS), background])
    for name, slope, exact_slope in zip((*FIELDS, "background"), actual, expected, strict=True):
        assert_close(slope, exact_slope, f"gradient of {name}", 1e-4)


@pytest.mark.parametrize(("module", "dtype"), [(compiled, "float32"), (reference, "float32"), (reference, "float64")])
def test_golden_raster(module: object, dtype: str) -> None:
    golden = np.load(GOLDEN / "raster_32.npz")
    tolerance = 1e-4 if dtype == "float32" else 1e-9

    def golden_input(name: str) -> Tensor:
        return torch.from_numpy(golden[f"in/{name}"]).to(getattr(torch, dtype))

    names = ("means", "quats", "scales", "opacities")
    leaves = [
        *(golden_input(name)[None].requires_grad_() for name in names),
        golden_input("colors")[None, None].requires_grad_(),
    ]
    view, intrinsics = golden_input("viewmat")[None, None], golden_input("K")[None, None]
    layers = module.rasterize(RasterInput(*leaves, view, intrinsics, 32, 32, 0.01, 100.0))  # type: ignore[attr-defined]
    alpha = 1 - layers.transmittance[0, 0]
    rgb = (layers.color + layers.transmittance[:, :, None] * golden_input("background")[:, None, None])[0, 0].movedim(
        0, -1
    )
    depth = layers.depth[0, 0] / alpha.clamp_min(1e-10)
    results = {"rgb": rgb, "alpha": alpha, "depth_expected": depth}
    loss = (rgb * golden_input("cotangent_rgb")).sum() + (alpha * golden_input("cotangent_alpha")).sum()
    slopes = torch.autograd.grad(loss, leaves, retain_graph=True)
    results |= {f"grad_{n}": s.flatten(0, -3)[0] for n, s in zip((*names, "colors"), slopes, strict=True) if s.ndim > 2}
    results["grad_opacities"] = slopes[3][0]
    slopes = torch.autograd.grad((depth * golden_input("cotangent_depth_expected")).sum(), leaves[:4])
    results |= {f"grad_depth_{n}": s[0] for n, s in zip(names, slopes, strict=True)}
    for name, value in results.items():
        expected = torch.from_numpy(golden[f"out/{name}"])
        assert_close(value.reshape(expected.shape), expected, name, tolerance)


def test_golden_projection_and_harmonics() -> None:
    golden = np.load(GOLDEN / "gsplat_projection_sh.npz")
    config = json.loads(str(golden["config"]))
    arrays = {name[3:]: torch.from_numpy(golden[name]) for name in golden.files if name.startswith("in/")}
    golden_output = {name[4:]: torch.from_numpy(golden[name]) for name in golden.files if name.startswith("out/")}
    covariance = reference.covariances(arrays["quats"], arrays["scales"])
    assert_close(covariance, golden_output["covariances"].double(), "covariances", 1e-5)
    means, quaternions, scales = (arrays[name][None] for name in ("means", "quats", "scales"))
    opaque, colors = torch.ones(1, len(covariance)), torch.ones(1, 1, len(covariance), 3)
    views = (arrays["viewmats"][None], arrays["Ks"][None], config["width"], config["height"])
    inputs = RasterInput(means, quaternions, scales, opaque, colors, *views, near=0.01, far=1e10)
    projected = reference.project(inputs, covariance[None])
    drawn = (golden_output["radii_extent_3_33"] > 0).all(-1)
    assert bool(drawn.any())
    for name, value in (("means2d", projected.centers), ("conics", projected.conics), ("depths", projected.depths)):
        assert_close(value[drawn], golden_output[name][drawn].double(), name, 1e-5)
    eyes = Cameras(arrays["viewmats"], arrays["Ks"], config["height"], config["width"]).centers
    for degree in range(4):
        used = arrays["sh"][None, :, : (degree + 1) ** 2]
        colors = spherical_harmonics.colors(used, arrays["means"][None], eyes[None])[0]
        expected = (golden_output[f"sh_degree{degree}_before_half"].double() + 0.5).clamp_min(0)
        assert_close(colors.expand_as(expected), expected, f"degree {degree}", 1e-5)


@each_backend
def test_not_finite_is_not_drawn(backend: str) -> None:
    sound, device = scene(seed=3), device_of(backend)
    broken = change(sound, slice(0, 1), means=float("nan"))
    broken = change(broken, slice(1, 2), rotations=float("nan"))
    broken = change(broken, slice(2, 3), scales=float("inf"))
    broken = change(broken, slice(3, 4), opacities=float("nan"))
    broken = leaves_of(change(broken, slice(4, 5), harmonics=float("nan")), torch.float32, device)
    finite = Gaussians(*(getattr(sound, f)[:, 5:].to(device) for f in FIELDS))
    cams, white = cameras().to(device), torch.ones(1, 1, 3, device=device)
    rendered, expected = (render(g, cams, white, backend=backend) for g in (broken, finite))  # type: ignore[arg-type]
    assert_close(rendered.rgb, expected.rgb.cpu().double(), "rgb", 1e-6)
    for slope in gradients(rendered, [getattr(broken, f) for f in FIELDS]):
        assert bool(slope.isfinite().all()) and bool((slope[:, :5] == 0).all()) and bool((slope != 0).any())


@each_backend
@pytest.mark.parametrize(
    "values",
    [{"scales": 0.0}, {"scales": 1e12}, {"scales": 1e30}, {"rotations": 0.0}, {"means": 1e30}, {"opacities": 0.0}],
)
def test_extremes_stay_finite(backend: str, values: dict[str, float]) -> None:
    device = device_of(backend)
    gaussians = leaves_of(change(scene(), slice(0, 10), **values), torch.float32, device)
    rendered = render(gaussians, cameras().to(device), torch.ones(1, 1, 3, device=device), backend=backend)  # type: ignore[arg-type]
    assert bool(rendered.rgb.isfinite().all() and rendered.depth.isfinite().all())
    assert all(
        bool(slope[:, 10:].isfinite().all()) for slope in gradients(rendered, [getattr(gaussians, f) for f in FIELDS])
    )


@each_backend
def test_camera_conventions(backend: str) -> None:
    """A point to the right and below in OpenCV axes; a transposed rotation is another image."""
    device = device_of(backend)
    dot = Gaussians(*(t[None, None] for t in (
        torch.tensor([0.3, 0.6, 0.0]), torch.tensor([1.0, 0, 0, 0]), torch.full((3,), 1e-3), torch.tensor(1.0),
        torch.full((1, 3), 1.0),
    ))).to(device)  # fmt: skip
    view = torch.eye(4)[None, None]
    view[..., 2, 3] = 2.0
    cams = Cameras(view, torch.tensor([[20.0, 0, 10], [0, 20, 10], [0, 0, 1]])[None, None], 20, 20).to(device)
    black = torch.zeros(1, 1, 3, device=device)
    alpha = render(dot, cams, black, backend=backend).alpha[0, 0]  # type: ignore[arg-type]
    assert divmod(int(alpha.argmax()), 20) in ((15, 12), (15, 13), (16, 12), (16, 13))
    good, views = scene(seed=6).to(device), cameras(view=2).to(device)
    turned = views.world_to_camera.clone()
    turned[..., :3, :3] = turned[..., :3, :3].transpose(-1, -2)
    backdrop = torch.zeros(1, 2, 3, device=device)
    wrong = render(good, dataclasses.replace(views, world_to_camera=turned), backdrop, backend=backend)  # type: ignore[arg-type]
    right = render(good, views, backdrop, backend=backend)  # type: ignore[arg-type]
    assert float((wrong.rgb - right.rgb).abs().max()) > 0.1


def test_half_precision_and_pixel_aligned_input() -> None:
    flat, cams, white = scene(count=24), cameras(), torch.ones(1, 1, 3)
    aligned = Gaussians(*(getattr(flat, f).bfloat16().unflatten(1, (2, 3, 4)) for f in FIELDS))
    with torch.autocast("cpu", torch.bfloat16):
        rendered = render(aligned, cams, white)
    expected = render(Gaussians(*(getattr(flat, f).bfloat16().float() for f in FIELDS)), cams, white)
    assert rendered.rgb.dtype == torch.float32 and torch.equal(rendered.rgb, expected.rgb)


def test_bad_input() -> None:
    gaussians, cams, white = scene(), cameras(), torch.ones(1, 1, 3)
    with pytest.raises(UserError, match="do not fit"):
        render(scene(batch=2), cams, white)
    with pytest.raises(UserError, match="near"):
        render(gaussians, cams, white, near=0.0)
    with pytest.raises(UserError, match="coefficients"):
        render(dataclasses.replace(gaussians, harmonics=torch.zeros(1, 40, 5, 3)), cams, white)
    with pytest.raises(UserError, match="back end gsplat"):
        render(gaussians, cams, white, backend="gsplat")
