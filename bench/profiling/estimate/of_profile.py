"""The estimate that a profile is compared with."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch

from bench.profiling.estimate.estimate import Hardware, cached_step_cost, estimate
from bench.profiling.estimate.hardware import CARDS, DEFAULT, card_of, cpu
from bench.profiling.estimate.memory import from_allocator_gib

if TYPE_CHECKING:
    from bench.config.schema import RunSpec

log = logging.getLogger(__name__)


def estimate_of_profile(spec: RunSpec, device: torch.device, ranks: int) -> dict[str, Any] | None:
    """Under the names of a profile's fields. None, with a warning, for parts that cannot be traced."""
    try:
        return _on_cpu(spec, ranks) if device.type == "cpu" else _on_cuda(spec, device, ranks)
    except Exception as error:  # whatever a user's own part raises on tensors without values
        log.warning("no estimate for the profile: %s", error)
        return None


def _on_cpu(spec: RunSpec, ranks: int) -> dict[str, Any]:
    content = estimate(spec, Hardware(cpu(torch.get_num_threads()), ranks))
    allocated = from_allocator_gib(cached_step_cost(spec, ranks, "cpu").memory)
    return {"allocated_peak_memory_gib": allocated, "step_time_ms": content["step_ms"], "hardware": content["hardware"]}


def _on_cuda(spec: RunSpec, device: torch.device, ranks: int) -> dict[str, Any]:
    """The time only where the card is known."""
    card = card_of(torch.cuda.get_device_name(device))
    content = estimate(spec, Hardware(card or CARDS[DEFAULT], ranks))
    memory = {f"{kind}_peak_memory_gib": content["memory"][f"{kind}_gib"]["expected"]
              for kind in ("allocated", "reserved")}  # fmt: skip
    return memory | {"step_time_ms": content["step_ms"] if card else None, "hardware": content["hardware"]}
