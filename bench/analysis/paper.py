"""The numbers printed in the paper, each with its table; nothing here is computed or measured.

Fujimura et al., "Systematization of 3D Gaussian estimation models from few views with unknown camera poses, and
performance gains through an effective model configuration", MIRU 2025.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TaxonomyRow:
    """Table 1. `inputs` "N" is any number."""

    models: tuple[str, ...]
    inputs: str
    poses: str
    encoder: str
    aggregator: str
    head: str
    output: str


@dataclass(frozen=True)
class ComparedModel:
    """Table 2: the compared models; blocks and patch are A's."""

    model: str
    encoder: str
    blocks: int
    patch: int
    head: str


@dataclass(frozen=True)
class Result:
    """Table 3. Params. in millions, truncated; GPU in the paper's GB, over 4 GPUs, which memory is not stated.

    `days`: of the whole training, about, from the text (§3.2); None where it gives none.
    """

    model: str
    psnr: float
    ssim: float
    lpips: float
    parameters_millions: int
    gpu_gb: int
    days: int | None = None


TABLE_1 = (
    TaxonomyRow(("DUSt3R", "MASt3R"), "2", "unknown", "pretrained CroCo", "cross-attention between two views",
                "DPT head", "points P"),
    TaxonomyRow(("Splatt3R", "NoPoSplat"), "2", "unknown", "pretrained MASt3R E", "cross-attention between two views",
                "DPT head", "Gaussians G"),
    TaxonomyRow(("LRM",), "1", "–", "convolution", "self-attention within the view", "deconvolution", "θ (NeRF)"),
    TaxonomyRow(("PF-LRM",), "N", "unknown", "pretrained DINO", "self-attention over all views", "deconvolution",
                "θ (NeRF)"),
    TaxonomyRow(("GS-LRM",), "N", "known", "convolution", "self-attention over all views", "linear + reshape",
                "Gaussians G"),
    TaxonomyRow(("FreeSplatter",), "N", "unknown", "convolution", "self-attention over all views", "linear + reshape",
                "Gaussians G"),
    TaxonomyRow(("proposed",), "N", "unknown", "pretrained MASt3R E", "self-attention over all views", "DPT head",
                "Gaussians G"),
)  # fmt: skip

TABLE_2 = (
    ComparedModel("FreeSplatter", "convolution", 24, 8, "linear + reshape"),
    ComparedModel("Ours1", "pretrained MASt3R E", 12, 16, "linear + reshape"),
    ComparedModel("Ours2", "pretrained MASt3R E", 12, 16, "DPT head"),
)

TABLE_3 = (
    Result("FreeSplatter", 21.1, 0.846, 0.169, 307, 225, days=4),
    Result("Ours1", 23.4, 0.877, 0.114, 461, 172),
    Result("Ours2", 23.4, 0.879, 0.111, 475, 174, days=3),
)


@dataclass(frozen=True)
class Stated:
    """One setting of the paper's experiments: the spec's field, its value there, and the paper's words and section."""

    aspect: str  # scale, data, training, precision
    field: str
    value: object
    words: str
    section: str


RECIPE = (
    Stated("scale", "model.image_size", 256, "256 × 256 pixels", "§3.1"),
    Stated("data", "data.name", "gobjaverse", "G-Objaverse: 264,775 scenes, 10 : 1 training and evaluation", "§3.1"),
    Stated("data", "views.choice.name", "lara", "one view of each of 4 K-means clusters of the cameras", "§3.1"),
    Stated("data", "views.inputs", 4, "4 input views", "§3.1"),
    Stated("data", "views.targets", 4, "4 target views", "§3.1"),
    Stated("data", "model.poses", "unknown", "poses of the inputs unknown", "§2"),
    Stated("training", "train.steps", 200_000, "200K steps", "§3.2"),
    Stated("training", "train.batch", 32, "32 scenes a step", "§3.2"),
    Stated("training", "train.learning_rate", 5.0e-5, "5.0e-5 after the warm-up", "§3.2"),
    Stated("training", "train.final_learning_rate", 5.0e-6, "5.0e-6 at the end (cosine)", "§3.2"),
    Stated("training", "train.warmup_steps", 2000, "2000 steps of linear warm-up", "§3.2"),
    Stated("training", "train.geometry_first", 0.0, "all three terms of eq. 6; no other phase is named", "§2.6"),
    Stated("training", "losses.mse.weight", 1.0, "L_m with weight 1", "§2.6"),
    Stated("training", "losses.lpips.weight", 0.05, "λ_l = 0.05", "§2.6"),
    Stated("training", "losses.points.weight", 10.0, "λ_3D = 10", "§2.6"),
    Stated("precision", "model.precision.aggregator", "bf16", "A in bf16 mixed precision", "§3.2"),
    Stated("precision", "model.precision.head", "bf16", "D in bf16 mixed precision", "§3.2"),
)

HARDWARE = "4 × NVIDIA A100 (80 GB)"  # §3.2
