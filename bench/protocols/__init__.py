"""What a number means: a protocol is data. No metric can be computed without one, and every result carries its name.

On the same predictions, conventions (background, mask, window, one strip or single images) spread PSNR by 7.4 dB and
SSIM by 0.018: more than the differences between the paper's models.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from bench.common.errors import UserError
from bench.protocols.lpips_weights import Net


@dataclass(frozen=True)
class Metric:
    """One number an image (or, of the geometry, an input view): its name in files, heading, unit and definition."""

    name: str
    heading: str
    better: Literal["higher", "lower", "none"]
    unit: str
    definition: str


BACKGROUNDS = {"white": 1.0, "black": 0.0}


@dataclass(frozen=True)
class Protocol:
    """How pictures are compared; every field drives the computation. Another convention is another protocol; a changed
    one is another version.

    Common to all: a metric is computed on single images, clipped to [0, 1], of the views that the spec's view choice
    gives in evaluation, and averaged over the views of a scene, then over scenes (`bench.evaluation.evaluate.Scores`).
    """

    name: str
    version: int
    background: Literal["white", "black"]  # behind true and rendered images and baselines; inputs are always on white
    psnr_cap: float  # dB of identical images, so that means stay finite
    ssim_window: int  # pixels; Gaussian, sum 1
    ssim_sigma: float  # pixels
    lpips_nets: tuple[Net, ...]
    foreground_alpha: float  # true alpha above it is foreground
    metrics: tuple[Metric, ...]

    @property
    def key(self) -> str:
        """name@version: the file name of a run's evaluation, without the suffix."""
        return f"{self.name}@{self.version}"

    @property
    def background_gray(self) -> float:
        """In [0, 1]."""
        return BACKGROUNDS[self.background]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def _metrics(background: str, cap: float, alpha: float) -> tuple[Metric, ...]:
    lpips = "LPIPS 0.1 (lpips package, trained {} backbone and linear layers), inputs mapped to [−1, 1]"
    return (
        Metric("psnr", "PSNR", "higher", "dB", "−10 log10 of the mean squared error over all pixels and channels, "
               f"both images on {background} and clipped to [0, 1]; {cap:g} dB at most"),
        Metric("ssim", "SSIM", "higher", "", "Gaussian window 11, sigma 1.5, population covariance, data range 1, "
               "channels averaged, the 5 border pixels left out (scikit-image's convention)"),
        Metric("lpips_vgg", "LPIPS (VGG)", "lower", "", lpips.format("VGG16")),
        Metric("lpips_alex", "LPIPS (Alex)", "lower", "", lpips.format("AlexNet")),
        Metric("psnr_foreground", "FG PSNR", "higher", "dB", "PSNR over the pixels whose true alpha exceeds "
               f"{alpha:g}, images on {background}; views without such pixels are left out"),
        Metric("depth_error", "Depth err.", "lower", "frame unit", "mean |expected depth of the rendering − true "
               "depth| over target pixels in the foreground with a valid truth; where nothing is rendered depth is 0"),
        Metric("point_error", "Point err.", "lower", "frame unit", "mean distance of the Gaussians' means to the "
               "true surface points of their pixels, over the input views' foreground"),
        Metric("grid_ratio", "Grid ratio", "none", "", "mean |Δz| between neighboring pixels across patch borders "
               "over that inside patches; z of the first input view's Gaussians, foreground; about 1 in true depth"),
        Metric("grid_ratio_true", "(true depth)", "none", "", "the grid ratio of the true surface at the same pixels"),
    )  # fmt: skip


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="per_image_white",
            version=1,
            background="white",
            psnr_cap=100.0,
            ssim_window=11,
            ssim_sigma=1.5,
            lpips_nets=("vgg", "alex"),
            foreground_alpha=0.5,
            metrics=_metrics("white", 100.0, 0.5),
        ),
    )
}


def names() -> tuple[str, ...]:
    return tuple(PROTOCOLS)


def get(name: str) -> Protocol:
    """Raises UserError naming the protocols there are."""
    if name not in PROTOCOLS:
        raise UserError(f"no evaluation protocol {name!r}: choose from {', '.join(names())}")
    return PROTOCOLS[name]
