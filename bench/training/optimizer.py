"""AdamW, the learning rate of each step, and the steps that train on L_3D alone (§3.2)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from bench.config.schema import TrainSpec


class AdamW(torch.optim.AdamW):
    """Fused; skips the update on non-finite gradients without a host sync: weights and moments stay."""

    found_inf: Tensor

    def update(self, gradient_norm: Tensor) -> None:
        """One step, unless the norm of all gradients is NaN or infinite."""
        self.found_inf = (~gradient_norm.isfinite()).float()
        self.step()


def build(model: nn.Module, train: TrainSpec) -> AdamW:
    """AdamW over a model's parameters; only the weights of linear and convolution layers decay.

    Biases, norms, position tables and view embeddings do not, as in DUSt3R, MAE and DINO.
    """
    layers = nn.Linear | nn.modules.conv._ConvNd
    decayed = {id(module.weight) for module in model.modules() if isinstance(module, layers)}
    groups = [
        {"params": [p for p in model.parameters() if (id(p) in decayed) is decays], "weight_decay": decay}
        for decays, decay in ((True, train.weight_decay), (False, 0.0))
    ]
    return AdamW(groups, lr=train.learning_rate, betas=train.betas, fused=True)


def learning_rate(step: int, train: TrainSpec) -> float:
    """Of step 0, 1, …: linear warm-up, then cosine to the final rate at the last step."""
    if step < train.warmup_steps:
        return train.learning_rate * (step + 1) / train.warmup_steps
    progress = (step - train.warmup_steps) / max(1, train.steps - 1 - train.warmup_steps)
    half = (train.learning_rate - train.final_learning_rate) / 2
    return train.final_learning_rate + half * (1 + math.cos(math.pi * min(progress, 1.0)))


def geometry_steps(train: TrainSpec) -> int:
    """How many steps, from the first, train on L_3D alone; nothing is rendered in them."""
    return round(train.geometry_first * train.steps)
