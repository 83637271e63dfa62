"""Every back end against a dense float64 rasteriser, gsplat's own torch code and the golden files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci, _spherical_harmonics
from torch import Tensor

import bench.rendering
from bench.errors import BadInput
from bench.rendering import Rendering, compiled, harmonics, kernel, reference, render
from models.tensors import Cameras, Gaussians

GOLDEN = Path(__file__).parent / "golden"
FIELDS = ("means", "rotations", "scales", "opacities", "harmonics")
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="gsplat needs a CUDA device")
BACKENDS = ["compiled", "reference", pytest.param("gsplat", marks=[pytest.mark.gpu, CUDA])]

each_backend = pytest.mark.parametrize("backend", BACKENDS)


def device_of(backend: str) -> str:
    return "cuda" if backend == "gsplat" else "cpu"


def scene(batch: int = 1, count: int = 40, degree: int = 1, seed: int = 0) -> Gaussians:
    """Overlapping Gaussians around the origin."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, count, *shape, generator=draw)

    return Gaussians(
        means=0.3 * normal(3),
        rotations=normal(4),
        scales=0.02 + 0.1 * torch.rand(batch, count, 3, generator=draw),
        opacities=0.1 + 0.85 * torch.rand(batch, count, generator=draw),
        harmonics=0.5 * normal((degree + 1) ** 2, 3),
    )


def cameras(batch: int = 1, view: int = 1, width: int = 20, height: int = 13) -> Cameras:
    """Around the origin, not aligned with any axis, with an off-centre principal point."""
    angles = torch.arange(batch * view).reshape(batch, view) * 0.9 + 0.4
    c, s = angles.cos(), angles.sin()
    turn = torch.eye(4).repeat(batch, view, 1, 1)
    turn[..., 0, 0], turn[..., 0, 2], turn[..., 2, 0], turn[..., 2, 2] = c, s, -s, c
    tilt = torch.eye(4)
    tilt[1:3, 1:3] = torch.tensor([[0.8, -0.6], [0.6, 0.8]])
    tilt[2, 3] = 2.0
    intrinsics = torch.tensor([[18.0, 0, width / 2 + 0.7], [0, 17.0, height / 2 - 0.4], [0, 0, 1]])
    return Cameras(tilt @ turn, intrinsics.expand(batch, view, 3, 3), height, width)


def oracle(gaussians: Gaussians, cams: Cameras, background: Tensor, near: float, far: float) -> Rendering:
    """Every Gaussian at every pixel in float64; projection and harmonics by gsplat."""
    g, view = gaussians, cams.world_to_camera.double()
    degree = harmonics.degree_of(g.harmonics.shape[-2])
    covariance, _ = _quat_scale_to_covar_preci(g.rotations, g.scales, compute_preci=False)
    size = (cams.width, cams.height)
    radii, centres, depths, conics, _ = _fully_fused_projection(
        g.means, covariance, view, cams.intrinsics.double(), *size, near_plane=near, far_plane=far
    )
    rotation, shift = view[..., :3, :3], view[..., :3, 3]
    eyes = -torch.einsum("bvji,bvj->bvi", rotation, shift)
    directions = g.means[:, None] - eyes[:, :, None]
    coefficients = g.harmonics[:, None].expand(-1, view.shape[1], -1, -1, -1)
    colours = (_spherical_harmonics(degree, directions, coefficients) + 0.5).clamp_min(0)
    x, y = torch.meshgrid(torch.arange(cams.width) + 0.5, torch.arange(cams.height) + 0.5, indexing="xy")
    rgb, depth, alpha = [], [], []
    for b, v in np.ndindex(*view.shape[:2]):
        left = torch.ones(cams.height, cams.width, dtype=torch.float64)
        open_, sums = torch.ones_like(left, dtype=torch.bool), torch.zeros(4, *left.shape, dtype=torch.float64)
        for i in depths[b, v].argsort(stable=True).tolist():
            if (radii[b, v, i] == 0).any():
                continue
            dx, dy = centres[b, v, i, 0] - x, centres[b, v, i, 1] - y
            p, q, r = conics[b, v, i]
            strength = g.opacities[b, i] * torch.exp(-0.5 * (p * dx * dx + r * dy * dy) - q * dx * dy)
            here = strength.clamp_max(0.999)
            hit = open_ & (here >= 1 / 255)
            open_ = open_ & ~(hit & (left * (1 - here) <= 1e-4))
            weight = torch.where(hit & open_, here * left, 0)
            seen = torch.cat([colours[b, v, i], depths[b, v, i][None]])
            sums, left = sums + weight * seen[:, None, None], left - weight
        rgb.append(sums[:3] + left * background[b, v, :, None, None])
        alpha.append(1 - left)
        depth.append(sums[3] / (1 - left).clamp_min(1e-10))
    shape = view.shape[:2]
    return Rendering(*(torch.stack(image).unflatten(0, shape) for image in (rgb, depth, alpha)))


def change(gaussians: Gaussians, rows: slice, **values: float | list[float]) -> Gaussians:
    fields = {}
    for name, value in values.items():
        fields[name] = getattr(gaussians, name).clone()
        fields[name][:, rows] = torch.as_tensor(value)
    return dataclasses.replace(gaussians, **fields)


def beside(gaussians: Gaussians) -> Gaussians:
    """Some far outside the image, where the Jacobian is clamped, large enough to reach into it."""
    moved = change(gaussians, slice(0, 6), scales=0.8, opacities=0.9)
    return dataclasses.replace(moved, means=moved.means * torch.linspace(14, 1, 40)[:, None])


CASES: dict[str, tuple[Callable[[], Gaussians], Callable[[], Cameras]]] = {
    "overlapping": (scene, cameras),
    "opaque core": (lambda: change(scene(seed=1), slice(0, 20), opacities=1.0, scales=0.3), cameras),
    "batches": (lambda: scene(batch=2, seed=2), lambda: cameras(batch=2, view=3)),
    "off-screen": (lambda: beside(scene(seed=3)), cameras),
    "behind": (lambda: change(scene(seed=4), slice(0, 30), means=[0.0, -3.0, -4.0]), lambda: cameras(view=3)),
    "huge": (lambda: change(scene(seed=5), slice(0, 5), scales=30.0, opacities=0.3), cameras),
    "tiny": (lambda: change(scene(seed=6), slice(0, 39), scales=1e-6), cameras),
    "transparent": (lambda: change(scene(seed=7), slice(0, 30), opacities=0.003), cameras),
    "flat colours": (lambda: scene(degree=0, seed=8), lambda: cameras(view=2)),
    "degree 2": (lambda: scene(degree=2, seed=9), lambda: cameras(view=2)),
    "degree 3": (lambda: scene(degree=3, seed=10), lambda: cameras(view=2)),
    "degree 4": (lambda: scene(degree=4, seed=11), lambda: cameras(view=2)),
    "many bands": (lambda: scene(count=60, seed=12), lambda: cameras(width=70, height=50)),
    "nothing visible": (lambda: change(scene(seed=13), slice(0, 40), means=[0.0, -9.0, -9.0]), cameras),
}


def gradients(rendering: Rendering, leaves: list[Tensor], seed: int = 0) -> list[Tensor]:
    """Of a random weighting of all three outputs."""
    loss = torch.zeros((), dtype=torch.float64, device=leaves[0].device)
    for image in (rendering.rgb, rendering.depth, rendering.alpha):
        weight = torch.from_numpy(np.random.default_rng(seed).normal(size=image.shape)).to(image.device)
        loss = loss + (image.double() * weight).sum()
    return list(torch.autograd.grad(loss, leaves, materialize_grads=True))


def leaves_of(gaussians: Gaussians, dtype: torch.dtype, device: str = "cpu") -> Gaussians:
    return Gaussians(*(getattr(gaussians, f).detach().clone().to(device, dtype).requires_grad_() for f in FIELDS))


def assert_close(actual: Tensor, expected: Tensor, name: str, tolerance: float = 2e-5) -> None:
    scale = max(1.0, float(expected.detach().abs().max()))
    error = float((actual.detach().cpu().double() - expected.detach()).abs().max()) / scale
    assert error <= tolerance, f"{name}: {error:.1e}"


@each_backend
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(backend: str, case: str) -> None:
    gaussians, cams = CASES[case][0](), CASES[case][1]()
    shape = (*cams.world_to_camera.shape[:2], 3)
    background = torch.rand(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
    exact, single = leaves_of(gaussians, torch.float64), leaves_of(gaussians, torch.float32, device_of(backend))
    plain = background.detach().double().requires_grad_()
    want = oracle(exact, cams, plain, 0.01, 100.0)
    device = device_of(backend)
    got = render(single, cams.to(device), background.to(device), backend=backend)  # type: ignore[arg-type]
    for name in ("rgb", "depth", "alpha"):
        assert_close(getattr(got, name), getattr(want, name), name)
    if case == "nothing visible":
        assert got.alpha.max() == 0 and got.depth.max() == 0
        assert_close(got.rgb, plain[..., None, None].expand_as(want.rgb), "background", 1e-6)
    expected = gradients(want, [*(getattr(exact, f) for f in FIELDS), plain])
    actual = gradients(got, [*(getattr(single, f) for f in FIELDS), background])
    for name, slope, exact_slope in zip((*FIELDS, "background"), actual, expected, strict=True):
        assert_close(slope, exact_slope, f"gradient of {name}", 1e-4)


@pytest.mark.parametrize(("module", "dtype"), [(compiled, "float32"), (reference, "float32"), (reference, "float64")])
def test_golden_raster(module: object, dtype: str) -> None:
    golden = np.load(GOLDEN / "raster_32.npz")
    tolerance = 1e-4 if dtype == "float32" else 1e-9

    def given(name: str) -> Tensor:
        return torch.from_numpy(golden[f"in/{name}"]).to(getattr(torch, dtype))

    names = ("means", "quats", "scales", "opacities")
    leaves = [*(given(name)[None].requires_grad_() for name in names), given("colors")[None, None].requires_grad_()]
    view, intrinsics = given("viewmat")[None, None], given("K")[None, None]
    layers = module.rasterise(*leaves, view, intrinsics, 32, 32, 0.01, 100.0)  # type: ignore[attr-defined]
    alpha = 1 - layers.transmittance[0, 0]
    rgb = (layers.colour + layers.transmittance[:, :, None] * given("background")[:, None, None])[0, 0].movedim(0, -1)
    depth = layers.depth[0, 0] / alpha.clamp_min(1e-10)
    results = {"rgb": rgb, "alpha": alpha, "depth_expected": depth}
    loss = (rgb * given("cotangent_rgb")).sum() + (alpha * given("cotangent_alpha")).sum()
    slopes = torch.autograd.grad(loss, leaves, retain_graph=True)
    results |= {f"grad_{n}": s.flatten(0, -3)[0] for n, s in zip((*names, "colors"), slopes, strict=True) if s.ndim > 2}
    results["grad_opacities"] = slopes[3][0]
    slopes = torch.autograd.grad((depth * given("cotangent_depth_expected")).sum(), leaves[:4])
    results |= {f"grad_depth_{n}": s[0] for n, s in zip(names, slopes, strict=True)}
    for name, value in results.items():
        expected = torch.from_numpy(golden[f"out/{name}"])
        assert_close(value.reshape(expected.shape), expected, name, tolerance)


def test_golden_projection_and_harmonics() -> None:
    golden = np.load(GOLDEN / "gsplat_projection_sh.npz")
    config = json.loads(str(golden["config"]))
    given = {name[3:]: torch.from_numpy(golden[name]) for name in golden.files if name.startswith("in/")}
    want = {name[4:]: torch.from_numpy(golden[name]) for name in golden.files if name.startswith("out/")}
    covariance = reference.covariances(given["quats"], given["scales"])
    assert_close(covariance, want["covariances"].double(), "covariances", 1e-5)
    opaque = torch.ones(1, len(covariance))
    scene_, views = (given["means"][None], covariance[None], opaque), (given["viewmats"][None], given["Ks"][None])
    projected = reference.project(*scene_, *views, config["width"], config["height"], 0.01, 1e10)
    drawn = (want["radii_extent_3_33"] > 0).all(-1)
    assert bool(drawn.any())
    for name, value in (("means2d", projected.centres), ("conics", projected.conics), ("depths", projected.depths)):
        assert_close(value[drawn], want[name][drawn].double(), name, 1e-5)
    eyes = Cameras(given["viewmats"], given["Ks"], config["height"], config["width"]).centres
    for degree in range(4):
        kept = given["sh"][None, :, : (degree + 1) ** 2]
        colours = harmonics.colours(kept, given["means"][None], eyes[None])[0]
        expected = (want[f"sh_degree{degree}_before_half"].double() + 0.5).clamp_min(0)
        assert_close(colours.expand_as(expected), expected, f"degree {degree}", 1e-5)


@each_backend
def test_not_finite_is_not_drawn(backend: str) -> None:
    sound, device = scene(seed=3), device_of(backend)
    broken = change(sound, slice(0, 1), means=float("nan"))
    broken = change(broken, slice(1, 2), rotations=float("nan"))
    broken = change(broken, slice(2, 3), scales=float("inf"))
    broken = change(broken, slice(3, 4), opacities=float("nan"))
    broken = leaves_of(change(broken, slice(4, 5), harmonics=float("nan")), torch.float32, device)
    rest = Gaussians(*(getattr(sound, f)[:, 5:].to(device) for f in FIELDS))
    cams, white = cameras().to(device), torch.ones(1, 1, 3, device=device)
    got, want = (render(g, cams, white, backend=backend) for g in (broken, rest))  # type: ignore[arg-type]
    assert_close(got.rgb, want.rgb.cpu().double(), "rgb", 1e-6)
    for slope in gradients(got, [getattr(broken, f) for f in FIELDS]):
        assert bool(slope.isfinite().all()) and bool((slope[:, :5] == 0).all()) and bool((slope != 0).any())


@each_backend
@pytest.mark.parametrize(
    "values",
    [{"scales": 0.0}, {"scales": 1e12}, {"scales": 1e30}, {"rotations": 0.0}, {"means": 1e30}, {"opacities": 0.0}],
)
def test_extremes_stay_finite(backend: str, values: dict[str, float]) -> None:
    device = device_of(backend)
    gaussians = leaves_of(change(scene(), slice(0, 10), **values), torch.float32, device)
    got = render(gaussians, cameras().to(device), torch.ones(1, 1, 3, device=device), backend=backend)  # type: ignore[arg-type]
    assert bool(got.rgb.isfinite().all() and got.depth.isfinite().all())
    assert all(
        bool(slope[:, 10:].isfinite().all()) for slope in gradients(got, [getattr(gaussians, f) for f in FIELDS])
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


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_compiled_is_bitwise_equal_at_any_number_of_threads(threads: Callable[[int], None]) -> None:
    runs = []
    for count in (1, 1, 2, 3):
        threads(count)
        gaussians = leaves_of(scene(batch=2, count=500, seed=5), torch.float32)
        got = render(gaussians, cameras(2, 2, 70, 50), torch.ones(2, 2, 3), backend="compiled")
        runs.append([got.rgb, got.depth, got.alpha, *gradients(got, [getattr(gaussians, f) for f in FIELDS])])
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], run, strict=True))


def operator_inputs() -> tuple[Tensor | int | float, ...]:
    gaussians, cams = leaves_of(scene(degree=0), torch.float32), cameras(view=2)
    fields = [getattr(gaussians, f) for f in FIELDS[:4]]
    colours = torch.rand(1, 2, 40, 3, requires_grad=True)
    return (*fields, colours, cams.world_to_camera, cams.intrinsics, cams.width, cams.height, 0.01, 100.0)


def test_operator_passes_opcheck() -> None:
    torch.library.opcheck(torch.ops.ead_bench.rasterise.default, operator_inputs())


def test_operator_under_fake_tensors() -> None:
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fields = [torch.empty(1, 40, *s).requires_grad_() for s in ((3,), (4,), (3,), ())]
        views = torch.empty(1, 2, 4, 4), torch.empty(1, 2, 3, 3)
        layers = compiled.rasterise(*fields, torch.empty(1, 1, 40, 3), *views, 20, 13, 0.01, 100.0)
        layers.colour.sum().backward()
        assert mode is not None and layers.colour.shape == (1, 2, 3, 13, 20) and fields[0].grad is not None


def test_half_precision_and_pixel_aligned_input() -> None:
    flat, cams, white = scene(count=24), cameras(), torch.ones(1, 1, 3)
    aligned = Gaussians(*(getattr(flat, f).bfloat16().unflatten(1, (2, 3, 4)) for f in FIELDS))
    with torch.autocast("cpu", torch.bfloat16):
        got = render(aligned, cams, white)
    want = render(Gaussians(*(getattr(flat, f).bfloat16().float() for f in FIELDS)), cams, white)
    assert got.rgb.dtype == torch.float32 and torch.equal(got.rgb, want.rgb)


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    kernel.library.cache_clear()
    bench.rendering._compiles.cache_clear()
    try:
        with pytest.raises(kernel.NoCompiler, match=r"install g\+\+"):
            render(scene(), cameras(), torch.ones(1, 1, 3), backend="compiled")
        with pytest.warns(UserWarning, match="reference"):
            got = render(scene(), cameras(), torch.ones(1, 1, 3))
    finally:
        kernel.library.cache_clear()
        bench.rendering._compiles.cache_clear()
    assert torch.equal(got.rgb, render(scene(), cameras(), torch.ones(1, 1, 3), backend="reference").rgb)


def test_broken_source_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kernel, "COMPILE", (*kernel.COMPILE, "-DkBlur=!"))
    monkeypatch.setenv("EAD_BENCH_CACHE", str(tmp_path))
    with pytest.raises(kernel.NoCompiler, match="does not build"):
        kernel.library.__wrapped__()
    assert list((tmp_path / "kernels").iterdir()) == []


def test_bad_input() -> None:
    gaussians, cams, white = scene(), cameras(), torch.ones(1, 1, 3)
    with pytest.raises(BadInput, match="do not fit"):
        render(scene(batch=2), cams, white)
    with pytest.raises(BadInput, match="near"):
        render(gaussians, cams, white, near=0.0)
    with pytest.raises(BadInput, match="coefficients"):
        render(dataclasses.replace(gaussians, harmonics=torch.zeros(1, 40, 5, 3)), cams, white)
    with pytest.raises(BadInput, match="back end gsplat"):
        render(gaussians, cams, white, backend="gsplat")
