"""Metrics against scikit-image's and LPIPS's own values, and small cases worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from support.paths import GOLDEN
from torch import Tensor

from bench import protocols
from bench.common.errors import UserError
from bench.evaluation import metrics
from bench.runtime import lpips_weights

PROTOCOL = protocols.get("per_image_white")


def golden_images(name: str) -> tuple[Tensor, Tensor, np.lib.npyio.NpzFile]:
    golden = np.load(GOLDEN / f"{name}.npz")
    reference, distorted = (torch.from_numpy(golden[f"in/{k}"]).permute(0, 3, 1, 2) for k in ("reference", "distorted"))
    return reference, distorted, golden


def test_psnr_and_ssim_are_scikit_images() -> None:
    reference, distorted, golden = golden_images("skimage_ssim_psnr")
    psnr = metrics.psnr(distorted, reference, PROTOCOL)
    ssim = metrics.ssim(distorted, reference, PROTOCOL.ssim_window, PROTOCOL.ssim_sigma)
    np.testing.assert_allclose(psnr.numpy(), golden["out/psnr"], atol=1e-6, rtol=0)
    np.testing.assert_allclose(ssim.numpy(), golden["out/ssim_gaussian11"], atol=1e-7, rtol=0)
    fresh = structural_similarity(
        reference[0].double().numpy(), distorted[0].double().numpy(), channel_axis=0, data_range=1.0,
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    )  # fmt: skip
    assert float(ssim[0]) == pytest.approx(fresh, abs=1e-9)


@pytest.mark.parametrize("net", lpips_weights.NETS)
def test_batched_lpips_is_the_packages(net: lpips_weights.Net) -> None:
    if not lpips_weights.backbone_available(net):
        pytest.skip("no LPIPS backbones: run `python -m bench.setup`")
    reference, distorted, golden = golden_images(f"lpips_{net}")
    model = lpips_weights.lpips_model(net)
    values = metrics.lpips_distance(model, torch.stack([distorted, reference])[:, :, None], reference[:, None], chunk=1)
    np.testing.assert_allclose(values[0, :, 0].numpy(), golden["out/value"], atol=1e-5, rtol=0)
    assert float(values[1].abs().max()) < 1e-7


def test_masked_psnr_sees_the_mask_only_and_is_undefined_where_it_is_empty() -> None:
    truth = torch.ones(2, 3, 16, 16)
    image = truth.clone()
    image[:, :, :8] = 0.9  # error 0.1 in the mask, none outside
    mask = torch.zeros(2, 16, 16, dtype=torch.bool)
    mask[0, :8] = True
    value = metrics.psnr(image, truth, PROTOCOL, mask)
    assert float(value[0]) == pytest.approx(20.0, abs=1e-4) and value[1].isnan()
    assert float(metrics.psnr(image, truth, PROTOCOL)[0]) == pytest.approx(20 + 10 * np.log10(2), abs=1e-4)
    assert metrics.psnr(truth, truth, PROTOCOL).tolist() == [100.0, 100.0]


def test_images_are_clipped_before_they_are_compared() -> None:
    truth = torch.rand(1, 1, 3, 16, 16)
    mask = torch.ones(1, 1, 16, 16, dtype=torch.bool)
    protocol = replace(PROTOCOL, lpips_nets=())
    measure = metrics.ImageMetrics(protocol)
    above = torch.where(truth > 0.5, torch.tensor(1.0), truth)
    values = measure({"a": above, "b": torch.where(truth > 0.5, torch.tensor(7.0), truth)}, truth, mask)
    assert {k: float(v) for k, v in values["a"].items()} == {k: float(v) for k, v in values["b"].items()}


def test_depth_and_point_errors_count_valid_foreground_only() -> None:
    truth = torch.tensor([[[2.0, 0.0], [3.0, float("nan")]]])
    rendered = torch.tensor([[[2.5, 9.0], [0.0, 9.0]]])
    mask = torch.tensor([[[True, True], [True, True]]])
    assert metrics.depth_error(rendered, truth, mask).tolist() == [pytest.approx((0.5 + 3.0) / 2)]
    points = torch.zeros(1, 2, 2, 3)
    means = points + torch.tensor([3.0, 4.0, 0.0])
    means[0, 1] = torch.nan  # background: not looked at
    top = torch.tensor([[[True, True], [False, False]]])
    assert metrics.point_error(means, points, top).tolist() == [pytest.approx(5.0)]


def test_grid_ratio_finds_steps_at_patch_borders() -> None:
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    mask = torch.ones(16, 16, dtype=torch.bool)
    ramp = 0.1 * (rows + columns)
    assert float(metrics.grid_ratio(ramp, mask, 4)) == pytest.approx(1.0, abs=1e-4)
    steps = ramp + 0.2 * (rows // 4 + columns // 4)
    assert float(metrics.grid_ratio(steps, mask, 4)) == pytest.approx(3.0, abs=1e-4)
    assert float(metrics.grid_ratio(steps, mask, 8)) < 3.0  # another patch, another grid
    mask[3] = mask[7] = mask[11] = False  # borders between rows leave; those between columns remain
    assert float(metrics.grid_ratio(steps, mask, 4)) == pytest.approx(3.0, abs=1e-4)
    assert metrics.grid_ratio(steps, torch.zeros_like(mask), 4).isnan()


def test_small_images_are_refused_for_ssim() -> None:
    with pytest.raises(UserError, match="window of 11"):
        metrics.ssim(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8), 11, 1.5)


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_is_left_out_of_images_too_small_for_its_net(net: str) -> None:
    least = lpips_weights.LEAST_PIXELS[net]  # type: ignore[index]
    for size in (least - 1, least):
        measure = metrics.ImageMetrics(protocols.get("per_image_white"), image_size=size)
        images = torch.rand(1, 1, 3, size, size)
        (values,) = measure({"ours": images}, 1 - images, torch.ones(1, 1, size, size, dtype=torch.bool)).values()
        assert (f"lpips_{net}" in values) == (size == least) == (f"lpips_{net}" not in measure.missing)
    small = metrics.ImageMetrics(protocols.get("per_image_white"), image_size=8)
    assert f"smaller than the {least}" in small.missing[f"lpips_{net}"]
