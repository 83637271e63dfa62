"""The metrics of a protocol, batched: image quality, geometry, and the grid artifact of linear heads (claim 3)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from bench import outputs
from bench.common.errors import UserError
from bench.data.batch import Batch
from bench.protocols import Protocol
from bench.rendering import Rendering
from bench.runtime import lpips_weights


class ImageMetrics:
    """Compares images under one protocol; LPIPS nets without their backbone are left out and named in `missing`."""

    def __init__(self, protocol: Protocol, device: torch.device | str = "cpu") -> None:
        self.protocol = protocol
        present = [net for net in protocol.lpips_nets if lpips_weights.backbone_available(net)]
        self.lpips: dict[str, nn.Module] = {net: lpips_weights.lpips_model(net).to(device) for net in present}
        reason = "no trained backbone on this machine: run `python -m bench.setup`"
        self.missing = {f"lpips_{net}": reason for net in protocol.lpips_nets if net not in present}

    @torch.no_grad()
    def __call__(
        self,
        images: Mapping[str, Float[Tensor, "batch view 3 height width"]],
        truth: Float[Tensor, "batch view 3 height width"],
        mask: Bool[Tensor, "batch view height width"],
    ) -> dict[str, dict[str, Float[Tensor, "batch view"]]]:
        """{method: {metric: value of every view}} of several methods' images of the same views; nan = not defined."""
        truth = truth.clamp(0, 1)
        stacked = torch.stack([image.clamp(0, 1) for image in images.values()])
        window, sigma = self.protocol.ssim_window, self.protocol.ssim_sigma
        values = {
            "psnr": psnr(stacked, truth, self.protocol),
            "ssim": torch.stack([ssim(image, truth, window, sigma) for image in stacked]),  # 2 GiB a method at 512 px
            "psnr_foreground": psnr(stacked, truth, self.protocol, mask),
        }
        values |= {f"lpips_{net}": lpips_distance(model, stacked, truth) for net, model in self.lpips.items()}
        return {name: {metric: value[i] for metric, value in values.items()} for i, name in enumerate(images)}


def psnr(
    images: Float[Tensor, "*shape 3 height width"],
    truth: Float[Tensor, "*#shape 3 height width"],
    protocol: Protocol,
    mask: Bool[Tensor, "*#shape height width"] | None = None,
) -> Float[Tensor, "*shape"]:
    """PSNR of each image in dB at a peak of 1, both clipped to [0, 1], at most the protocol's cap.

    The only PSNR there is: evaluation, training's validation and `--overfit` call it. With a mask over its pixels
    alone, nan where it is empty.
    """
    error = (images.clamp(0, 1) - truth.clamp(0, 1)).double().square().mean(-3)
    weight = torch.ones_like(error) if mask is None else mask.to(error).expand_as(error)
    mean = (error * weight).sum((-2, -1)) / weight.sum((-2, -1))
    return -10 * mean.clamp(min=10 ** (-protocol.psnr_cap / 10)).log10()


def ssim(
    images: Float[Tensor, "*shape 3 height width"],
    truth: Float[Tensor, "*#shape 3 height width"],
    window: int,
    sigma: float,
) -> Float[Tensor, "*shape"]:
    """Structural similarity (Wang et al. 2004) in float64, Gaussian window, population covariance, border left out."""
    if min(images.shape[-2:]) < window:
        raise UserError(f"SSIM's window of {window} pixels does not fit images of {tuple(images.shape[-2:])}")
    x, y = images.double(), truth.double().expand_as(images)
    pictures = torch.stack([x, y, x * x, y * y, x * y]).flatten(0, -3).unsqueeze(1)
    offsets = torch.arange(window, dtype=torch.float64, device=x.device) - window // 2
    kernel = (-0.5 * (offsets / sigma).square()).exp()
    kernel = kernel / kernel.sum()
    blurred = F.conv2d(F.conv2d(pictures, kernel[None, None, :, None]), kernel[None, None, None, :])
    mean_x, mean_y, xx, yy, xy = blurred.reshape(5, *x.shape[:-2], *blurred.shape[-2:])
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * (xy - mean_x * mean_y) + c2) / (xx - mean_x**2 + yy - mean_y**2 + c2)
    similarity: Tensor = luminance * structure
    return similarity.mean((-3, -2, -1))


def lpips_distance(
    model: nn.Module,
    images: Float[Tensor, "method *shape 3 height width"],
    truth: Float[Tensor, "*shape 3 height width"],
    chunk: int = 32,
) -> Float[Tensor, " method *shape"]:
    """LPIPS of every method's images in [0, 1]; the truth's features are computed once for all methods."""
    flat, references = images.flatten(1, -4), truth.flatten(0, -4)
    values = []
    for start in range(0, len(references), chunk):
        features = _features(model, references[start : start + chunk])
        parts = flat[:, start : start + chunk]
        values.append(torch.stack([_distance(model, features, _features(model, part)) for part in parts]))
    return torch.cat(values, 1).reshape(images.shape[:-3]).double()


def _features(model: nn.Module, image: Float[Tensor, "image 3 height width"]) -> list[Tensor]:
    """Backbone features, normalized over channels (lpips.normalize_tensor)."""
    outputs = model.net(model.scaling_layer(2 * image.float() - 1))  # type: ignore[operator]
    return [output / (output.square().sum(1, keepdim=True).sqrt() + 1e-10) for output in outputs]


def _distance(model: nn.Module, features: list[Tensor], others: list[Tensor]) -> Float[Tensor, " image"]:
    layers = zip(model.lins, features, others, strict=True)  # type: ignore[arg-type]
    return torch.stack([linear((a - b) ** 2).mean((1, 2, 3)) for linear, a, b in layers]).sum(0)


def masked_mean(
    values: Float[Tensor, "*shape height width"], mask: Bool[Tensor, "*shape height width"]
) -> Float[Tensor, "*shape"]:
    """Mean over the mask's pixels; nan where it is empty."""
    weight = mask.to(values)
    return torch.where(mask, values, 0.0).sum((-2, -1)) / weight.sum((-2, -1))


def depth_error(
    rendered: Float[Tensor, "*shape height width"],
    truth: Float[Tensor, "*shape height width"],
    mask: Bool[Tensor, "*shape height width"],
) -> Float[Tensor, "*shape"]:
    """Mean |Δ depth| over mask pixels with a valid (positive, finite) truth, in the frame's unit."""
    return masked_mean((rendered - truth).abs(), mask & (truth > 0) & truth.isfinite())


def point_error(
    means: Float[Tensor, "*shape height width 3"],
    points: Float[Tensor, "*shape height width 3"],
    mask: Bool[Tensor, "*shape height width"],
) -> Float[Tensor, "*shape"]:
    """Mean ‖μ − P‖ over the mask, in the frame's unit."""
    return masked_mean((means - points).norm(dim=-1), mask)


def scaled_to_truth(
    points: Float[Tensor, "batch view height width 3"], batch: Batch
) -> Float[Tensor, "batch view height width 3"]:
    """Scaled about the first camera, so that the foreground's mean distance from it is the true one (DUSt3R)."""
    center = batch.input_cameras.centers[:, :1, None, None]
    predicted, true = (
        masked_mean((side - center).norm(dim=-1).flatten(1, 2), batch.input_mask.flatten(1, 2))
        for side in (points, batch.input_points)
    )
    scale = torch.where(predicted > 0, true / predicted.clamp(min=1e-9), 1.0).nan_to_num(1.0)
    return center + (points - center) * scale[:, None, None, None, None]


def grid_ratio(
    z: Float[Tensor, "*shape height width"], mask: Bool[Tensor, "*shape height width"], patch: int
) -> Float[Tensor, "*shape"]:
    """Mean |Δz| of neighboring pixels across patch borders over that inside patches (both pixels in the mask).

    1.75–6 for linear heads, 0.85–1.1 for a DPT, 0.7–1 in true depth (pilot). nan where either kind has no pair, or z is
    constant inside patches.
    """
    across, pairs_across, inside, pairs_inside = _grid_sums(z, mask, patch)
    ratio = (across / pairs_across) / (inside / pairs_inside)
    return torch.where(inside == 0, torch.nan, ratio)


def _grid_sums(
    z: Float[Tensor, "*shape height width"], mask: Bool[Tensor, "*shape height width"], patch: int
) -> Float[Tensor, " 4 *shape"]:
    """Σ|Δz| across patch borders, pairs across, Σ|Δz| inside patches, pairs inside."""
    sums = z.new_zeros(4, *z.shape[:-2])
    for dim in (-1, -2):
        step = z.diff(dim=dim).abs()
        size = z.shape[dim]
        both = mask.narrow(dim, 1, size - 1) & mask.narrow(dim, 0, size - 1)
        across = (torch.arange(1, size, device=z.device) % patch == 0).view(-1, *[1] * (-dim - 1))
        for i, pairs in enumerate((both & across, both & ~across)):
            sums[2 * i] += torch.where(pairs, step, 0.0).sum((-2, -1))
            sums[2 * i + 1] += pairs.sum((-2, -1))
    return sums


def first_view_depth(
    points: Float[Tensor, "batch view height width 3"], batch: Batch
) -> Float[Tensor, "batch height width"]:
    """z of the first input view's points along its optical axis, in the frame's unit."""
    camera = batch.input_cameras.world_to_camera[:, 0]
    return torch.einsum("bj,bhwj->bhw", camera[:, 2, :3], points[:, 0].float()) + camera[:, 2, 3, None, None]


def geometry(
    output: object,
    rendering: Rendering | None,
    batch: Batch,
    foreground: Bool[Tensor, "batch target height width"],
    patch: int,
) -> tuple[dict[str, Float[Tensor, "batch _"]], dict[str, Bool[Tensor, "batch _"]]]:
    """Geometry metrics of a model's output, and where the truth defines them; those of its type alone.

    depth_error a target view; point_error an input view; grid ratios of the first input view.
    """
    values: dict[str, Tensor] = {}
    defined: dict[str, Tensor] = {}
    if rendering is not None:
        valid = foreground & (batch.target_depth > 0) & batch.target_depth.isfinite()
        values["depth_error"] = depth_error(rendering.depth, batch.target_depth, foreground)
        defined["depth_error"] = valid.flatten(2).any(2)
    points = outputs.of(output).surface_points(output)
    if points is not None:
        points = scaled_to_truth(points, batch) if outputs.of(output).scale_free else points
        mask, depth = batch.input_mask[:, 0], first_view_depth(points, batch)
        values["point_error"] = point_error(points, batch.input_points, batch.input_mask)
        values["grid_ratio"] = grid_ratio(depth, mask, patch)[:, None]
        values["grid_ratio_true"] = grid_ratio(first_view_depth(batch.input_points, batch), mask, patch)[:, None]
        _, pairs_across, inside, pairs_inside = _grid_sums(depth, mask, patch)
        defined["point_error"] = batch.input_mask.flatten(2).any(2)
        defined["grid_ratio"] = ((pairs_across > 0) & (pairs_inside > 0) & (inside != 0))[:, None]
        defined["grid_ratio_true"] = torch.zeros_like(defined["grid_ratio"])  # of the truth: no defect of the model
    return values, defined
