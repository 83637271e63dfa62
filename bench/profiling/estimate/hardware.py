"""What a device can do: built-in data-sheet values at a stated share, or rates measured on a card of its kind."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bench.common.errors import UserError
from bench.common.json_files import read_json
from bench.common.paths import SOURCE

MEASURED = SOURCE / "results" / "published" / "hardware"  # *.json: `card`, and fields of Rates
MATMUL_SHARE, BANDWIDTH_SHARE = 0.45, 0.7  # of the data sheet's peaks, until rates are measured
UNCALIBRATED = f"uncalibrated: {MATMUL_SHARE:.0%} of the data sheet's TFLOP/s, {BANDWIDTH_SHARE:.0%} of its bandwidth"


@dataclass(frozen=True)
class Rates:
    """Sustained."""

    tflops: Mapping[str, float]  # of matrix products: bfloat16, tf32, float32
    bandwidth_gb_s: float  # of memory
    operator_us: float  # least time of an operator
    exchange_gb_s: float  # of sums over the processes of a node, a process


@dataclass(frozen=True)
class Card:
    """A GPU, or a CPU of so many cores."""

    name: str
    memory_gib: float | None  # that a process can use; None: not limited by a device
    rates: Rates
    source: str = UNCALIBRATED


def _card(
    name: str, memory_gib: float, bfloat16: float, tf32: float, float32: float, bandwidth: float, link: float
) -> Card:
    tflops = {"bfloat16": bfloat16, "tf32": tf32, "float32": float32}
    sustained = {kind: value * MATMUL_SHARE for kind, value in tflops.items()}
    return Card(name, memory_gib, Rates(sustained, bandwidth * BANDWIDTH_SHARE, 6.0, link))


CARDS = {  # dense peaks of the data sheets, TFLOP/s and GB/s
    card.name: card
    for card in (
        _card("A100-80GB", 79.1, 312, 156, 19.5, 2039, 200),
        _card("A100-40GB", 39.4, 312, 156, 19.5, 1555, 200),
        _card("H100-80GB", 79.1, 989, 494, 67, 3350, 300),
        _card("H200-141GB", 139.7, 989, 494, 67, 4800, 300),
        _card("L40S-48GB", 44.4, 362, 183, 91.6, 864, 20),
        _card("A40-48GB", 44.4, 150, 75, 37.4, 696, 20),
        _card("RTX4090-24GB", 23.5, 165, 82.6, 82.6, 1008, 10),
        _card("RTX3090-24GB", 23.6, 71, 35.6, 35.6, 936, 10),
    )
}
DEFAULT = "A100-80GB"  # the paper's


def card_of(name: str) -> Card | None:
    """The card that a name means, as clusters and drivers write it ("a100", "NVIDIA H100 80GB HBM3"); None: unknown.

    With rates that were measured on such a card, if there are any.
    """
    compact = re.sub(r"[^a-z0-9]", "", name.lower())
    for key, card in sorted(CARDS.items(), key=lambda item: ("40GB" not in item[0], item[0])):
        model, memory = re.sub(r"[^a-z0-9-]", "", key.lower()).split("-")
        if model in compact and (model != "a100" or (memory == "40gb") == ("40" in compact)):
            return _calibrated(card)
    return None


def cpu(cores: int) -> Card:
    """Cores with AVX2 at 2.5 GHz; bf16 is computed in float32 there."""
    peak = 0.08 * cores * MATMUL_SHARE
    rates = Rates(dict.fromkeys(("bfloat16", "tf32", "float32"), peak), 8.0 * min(cores, 4), 8.0, 1.0)
    return Card(f"{cores} CPU core{'s' * (cores != 1)}", None, rates)


def _calibrated(card: Card) -> Card:
    """With the newest measured rates of this card. Raises UserError for a damaged file."""
    for path in sorted(MEASURED.glob("*.json"), reverse=True):
        content = read_json(path)
        if content.get("card") == card.name:
            return replace(card, rates=_rates(content, path), source=f"measured: {path.name}")
    return card


def _rates(content: Mapping[str, object], path: Path) -> Rates:
    try:
        return Rates(**{name: content[name] for name in Rates.__dataclass_fields__})  # type: ignore[arg-type]
    except KeyError as error:
        raise UserError(f"{path}: measured rates lack {error}") from error
