"""Floating-point operations of a model's forward pass, a multiplication and an addition counted as two."""

from __future__ import annotations

import torch
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models.ead import EAD
from models.tensors import Views

DEFINITION = (
    "floating-point operations of one forward pass of E, A, D and the output for one scene, without rendering: matrix "
    "products, convolutions and attention's two products, an addition and a multiplication counted as two; 10^9"
)


@torch.no_grad()
def forward_gflop(model: EAD, views: Views) -> float:
    """10⁹ operations a scene, counted in a forward pass of these views.

    Attention runs as the two products that it is: not every fused kernel has a formula in torch.utils.flop_counter.
    """
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}  # the counter hooks gradients
    eager = torch.compiler.set_stance("force_eager")  # fused operators have no formula
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), eager:
        functional_call(model, weights, (views,))
    return float(counter.get_total_flops()) / 1e9 / len(views.images)
