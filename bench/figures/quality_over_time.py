"""Validation PSNR against minutes of training: what a minute buys, setting by setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.common.labels import mathtext
from bench.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Records = Sequence[Mapping[str, Any]]  # one run's metrics.jsonl


def validations(records: Records) -> NDArray[np.float64]:
    """(validation, 2): minutes spent in training steps and waiting for their data until then, and PSNR in dB."""
    minutes = np.cumsum([record["step_time_ms"] for record in records]) / 60_000
    points = [(m, r["validation_psnr"]) for m, r in zip(minutes, records, strict=True) if r.get("validation_psnr")]
    return np.array(points, dtype=np.float64).reshape(-1, 2)


def draw(curves: Mapping[str, Sequence[Records]]) -> Figure:
    """`curves`: label → the records of its seeds, with validations; of several seeds the mean and the range of PSNR.

    A dotted line goes from the last validation of each setting to the axis of PSNR: where others cross it, they have
    reached its final quality.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(style.WIDTH, 3.2), layout="constrained")
    colors, dashes = style.series_colors(list(curves)), style.dashes(list(curves))
    for label, runs in curves.items():
        series = [validations(records) for records in runs]
        length = min(len(points) for points in series)
        points = np.stack([values[:length] for values in series])
        minutes, psnr = points[..., 0].mean(0), points[..., 1]
        if len(series) > 1:
            axes.fill_between(minutes, psnr.min(0), psnr.max(0), color=colors[label], alpha=0.18, linewidth=0)
        axes.plot(minutes, psnr.mean(0), color=colors[label], linestyle=dashes[label], marker="o", markersize=3,
                  label=mathtext(label))  # fmt: skip
        axes.hlines(psnr.mean(0)[-1], 0, minutes[-1], color=colors[label], linewidth=0.6, linestyle=":")
    axes.set(xlabel="minutes of training", ylabel="validation PSNR [dB]", xlim=(0, None))
    figure.legend(loc="outside lower center", ncols=3, fontsize=7)
    return figure
