"""AdamW, the learning rate of each step, and the steps that train on L_3D alone (§3.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bench.config.schema import PartTraining, TrainSpec
from bench.training.sharding import is_sharded
from models.ead import EAD


class AdamW(torch.optim.AdamW):
    """Fused; skips the update on non-finite gradients without a host sync: weights and moments stay."""

    found_inf: Tensor

    def update(self, gradient_norm: Tensor) -> None:
        """One step, unless the norm of all gradients is NaN or infinite."""
        self.found_inf = (~gradient_norm.isfinite()).float()
        self.step()


def build(model: EAD, train: TrainSpec) -> AdamW:
    """AdamW over a model's parameters that are not frozen; only the weights of linear and convolution layers decay.

    Biases, norms, position tables and view embeddings do not, as in DUSt3R, MAE and DINO. A group's `rate` is the
    learning rate of its part relative to `train.learning_rate`. Sharded and whole weights are never in one group: the
    fused update takes either.
    """
    layers = nn.Linear | nn.modules.conv._ConvNd
    decayed = {id(module.weight) for module in model.modules() if isinstance(module, layers)}
    groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    for name, part in model.parts().items():
        rate = getattr(train.parts, name, PartTraining()).rate
        for parameter in part.parameters():
            if parameter.requires_grad:
                key = rate, id(parameter) in decayed, is_sharded(parameter)
                groups.setdefault(key, []).append(parameter)
    return AdamW(
        [
            {"params": parameters, "weight_decay": train.weight_decay if decays else 0.0, "rate": rate}
            for (rate, decays, _), parameters in sorted(groups.items(), key=lambda group: group[0], reverse=True)
        ],
        lr=train.learning_rate,
        betas=train.betas,
        fused=True,
    )


def freeze(model: EAD, train: TrainSpec) -> None:
    """Parts that `train.parts` freezes get no gradient."""
    for name, part in model.parts().items():
        if getattr(train.parts, name, PartTraining()).freeze:
            part.requires_grad_(False)


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, train: TrainSpec) -> None:
    """The rate of step 0, 1, … in every group."""
    for group in optimizer.param_groups:
        group["lr"] = group["rate"] * learning_rate(step, train)


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
