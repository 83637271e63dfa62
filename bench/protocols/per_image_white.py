"""The default: single images on white, scikit-image's SSIM, LPIPS 0.1 with both backbones, the object's own PSNR."""

from bench.protocols import Metric, Protocol

CAP, WINDOW, SIGMA, ALPHA = 100.0, 11, 1.5, 0.5
LPIPS = "LPIPS 0.1 (lpips package, trained {} backbone and linear layers), inputs mapped to [−1, 1]"

METRICS = (
    Metric("psnr", "PSNR", "higher", "dB", "−10 log10 of the mean squared error over all pixels and channels, "
           f"both images on white and clipped to [0, 1]; {CAP:g} dB at most"),
    Metric("ssim", "SSIM", "higher", "", f"Gaussian window {WINDOW}, sigma {SIGMA}, population covariance, "
           f"data range 1, channels averaged, the {WINDOW // 2} border pixels left out (scikit-image's convention)"),
    Metric("lpips_vgg", "LPIPS (VGG)", "lower", "", LPIPS.format("VGG16")),
    Metric("lpips_alex", "LPIPS (Alex)", "lower", "", LPIPS.format("AlexNet")),
    Metric("psnr_foreground", "FG PSNR", "higher", "dB", "PSNR over the pixels whose true alpha exceeds "
           f"{ALPHA:g}, images on white; views without such pixels are left out"),
    Metric("depth_error", "Depth err.", "lower", "frame unit", "mean |expected depth of the rendering − true "
           "depth| over target pixels in the foreground with a valid truth; where nothing is rendered depth is 0"),
    Metric("point_error", "Point err.", "lower", "frame unit", "mean distance of the Gaussians' means to the "
           "true surface points of their pixels, over the input views' foreground; pointmaps are first scaled about "
           "the first camera so that their mean distance from it is the true one"),
    Metric("completion_error", "Completion err.", "lower", "", "loss term `completion` on held-out scenes: mean "
           "squared error over the hidden patches of the first input view, which are completed from the other views",
           optional=True),
    Metric("grid_ratio", "Grid ratio", "none", "", "mean |Δz| between neighboring pixels across patch borders "
           "over that inside patches; z of the first input view's Gaussians, foreground; about 1 in true depth"),
    Metric("grid_ratio_true", "(true depth)", "none", "", "the grid ratio of the true surface at the same pixels"),
)  # fmt: skip

PROTOCOL = Protocol(
    name="per_image_white",
    version=1,
    background="white",
    psnr_cap=CAP,
    ssim_window=WINDOW,
    ssim_sigma=SIGMA,
    lpips_nets=("vgg", "alex"),
    foreground_alpha=ALPHA,
    metrics=METRICS,
)
