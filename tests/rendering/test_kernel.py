"""The compiled back end as an operator, its determinism, and its build."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.rendering_oracle import FIELDS, cameras, gradients, leaves_of, scene

from bench.rendering import compiled, kernel, render
from bench.rendering.interface import RasterInput


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
        rendered = render(gaussians, cameras(2, 2, 70, 50), torch.ones(2, 2, 3), backend="compiled")
        runs.append(
            [
                rendered.rgb,
                rendered.depth,
                rendered.alpha,
                *gradients(rendered, [getattr(gaussians, f) for f in FIELDS]),
            ]
        )
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], run, strict=True))


def operator_inputs() -> tuple[Any, ...]:
    gaussians, cams = leaves_of(scene(degree=0), torch.float32), cameras(view=2)
    fields = [getattr(gaussians, f) for f in FIELDS[:4]]
    colors = torch.rand(1, 2, 40, 3, requires_grad=True)
    return (*fields, colors, cams.world_to_camera, cams.intrinsics, cams.width, cams.height, 0.01, 100.0)


def test_operator_passes_opcheck() -> None:
    torch.library.opcheck(torch.ops.ead_bench.rasterize.default, operator_inputs())


def test_operator_under_fake_tensors() -> None:
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fields: list[Any] = [torch.empty(1, 40, *s).requires_grad_() for s in ((3,), (4,), (3,), ())]
        fields += [torch.empty(1, 1, 40, 3), torch.empty(1, 2, 4, 4), torch.empty(1, 2, 3, 3)]
        size: Any = (20, 13, 0.01, 100.0)
        layers = compiled.rasterize(RasterInput(*fields, *size))
        torch.autograd.backward(layers.color.sum())
        assert mode is not None and layers.color.shape == (1, 2, 3, 13, 20) and fields[0].grad is not None


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    kernel.library.cache_clear()
    kernel.available.cache_clear()
    try:
        with pytest.raises(kernel.NoCompiler, match=r"install g\+\+"):
            render(scene(), cameras(), torch.ones(1, 1, 3), backend="compiled")
        with pytest.warns(UserWarning, match="reference"):
            rendered = render(scene(), cameras(), torch.ones(1, 1, 3))
    finally:
        kernel.library.cache_clear()
        kernel.available.cache_clear()
    assert torch.equal(rendered.rgb, render(scene(), cameras(), torch.ones(1, 1, 3), backend="reference").rgb)


def test_broken_source_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kernel, "COMPILE", (*kernel.COMPILE, "-DkBlur=!"))
    monkeypatch.setenv("EAD_BENCH_CACHE", str(tmp_path))
    with pytest.raises(kernel.NoCompiler, match="does not build"):
        kernel.library.__wrapped__()
    assert list((tmp_path / "kernels").iterdir()) == []
