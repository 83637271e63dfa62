"""Validation PSNR against minutes of training: what a minute buys, setting by setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.common.labels import mathtext
from bench.figures import style
from bench.figures.series import Series, handles, of_labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Records = Sequence[Mapping[str, Any]]  # one run's metrics.jsonl


def validations(records: Records) -> NDArray[np.float64]:
    """(validation, 2): minutes spent in training steps and waiting for their data until then, and PSNR in dB."""
    minutes = np.cumsum([record["step_time_ms"] for record in records]) / 60_000
    points = [(m, r["validation_psnr"]) for m, r in zip(minutes, records, strict=True) if r.get("validation_psnr")]
    return np.array(points, dtype=np.float64).reshape(-1, 2)


def draw(curves: Mapping[str, Sequence[Records]], series: Mapping[str, Series] | None = None) -> Figure:
    """`curves`: label → the records of its seeds, with validations; of several seeds the mean and the range of PSNR.
    `series`: how each is drawn, by default in a color of its own.

    A dotted line lies at the first setting's last validation: where others cross it, they have reached its quality.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(style.WIDTH, 3.2), layout="constrained")
    looks = series or of_labels(list(curves))
    for i, (label, runs) in enumerate(curves.items()):
        seeds = [validations(records) for records in runs]
        length = min(len(points) for points in seeds)
        points = np.stack([values[:length] for values in seeds])
        minutes, psnr = points[..., 0].mean(0), points[..., 1]
        look = looks[label]
        if len(seeds) > 1:
            axes.fill_between(minutes, psnr.min(0), psnr.max(0), color=look.color, alpha=0.18, linewidth=0)
        axes.plot(minutes, psnr.mean(0), color=look.color, linestyle=look.line, marker="o", markersize=2.5,
                  label=mathtext(label))  # fmt: skip
        if not i and len(curves) > 1:
            last = psnr.mean(0)[-1]
            axes.axhline(last, color=look.color, linewidth=0.8, linestyle=":", zorder=1)
            axes.annotate(f"{mathtext(label)}: last", (1, last), (0, 2), axes.get_yaxis_transform(), "offset points",
                          ha="right", fontsize=6, color=look.color)  # fmt: skip
    axes.set(xlabel="minutes of training", ylabel="validation PSNR [dB]", xlim=(0, None))
    legend = handles({label: looks[label] for label in curves})
    figure.legend(handles=legend, loc="outside lower center", ncols=min(len(legend), 5), fontsize=7, handlelength=2.6)
    return figure
