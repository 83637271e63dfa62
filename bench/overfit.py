"""The first test of a new part: can a model memorise one scene? Its settings, for `--overfit N` and the tests."""

from __future__ import annotations


def overrides(scenes: int) -> list[str]:
    """Settings of a tiny spec under which every model of Table 2 passes 28 dB on its scene's target views.

    Twice the tiny scale's learning rate, one scene a step, little geometry first, and no LPIPS, which PSNR does not
    need.
    """
    return [
        f"views.overfit={scenes}",
        f"train.batch={scenes}",
        "train.steps=1000",
        "train.learning_rate=4.0e-3",
        "train.warmup_steps=50",
        "train.geometry_first=0.1",
        "losses.lpips=null",
    ]
