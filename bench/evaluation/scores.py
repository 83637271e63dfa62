"""Values of metrics per view → per scene → means; a value that should be finite and is not is a defect."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

Values = Mapping[str, Float[Tensor, "batch _"]]  # metric → of every view
Defined = Mapping[str, Bool[Tensor, "batch _"]]  # metric → where the truth defines it; others are defined everywhere


@dataclass
class Scores:
    """Values of every scene and view; nan where the truth leaves a metric undefined (an empty mask)."""

    per_view: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, scenes: Sequence[str], values: Values) -> None:
        """Record some scenes, `values` in their order."""
        for i, scene in enumerate(scenes):
            entry = self.per_view.setdefault(scene, {})
            entry.update({name: [float(v) for v in value[i]] for name, value in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """means: views → scene → mean over scenes; ready for JSON, with null for undefined values."""
        per_scene = {s: {m: _mean(v) for m, v in values.items()} for s, values in self.per_view.items()}
        names = list(dict.fromkeys(name for values in per_scene.values() for name in values))
        means = {name: _mean([values.get(name, math.nan) for values in per_scene.values()]) for name in names}
        result: dict[str, Any] = _null({"means": means, "per_scene": per_scene, "per_view": self.per_view})
        return result


def defects(scenes: Sequence[str], values: Values, defined: Defined) -> list[str]:
    """Every metric that is not finite where it is defined, as "SCENE: METRIC"."""
    texts = []
    for name, value in values.items():
        bad = ~value.isfinite()
        if name in defined:
            bad = bad & defined[name].to(bad.device)
        texts += [f"{scenes[i]}: {name}" for i in bad.flatten(1).any(1).nonzero()[:, 0].tolist()]
    return texts


def _mean(values: Sequence[float]) -> float:
    """Over the defined values; nan if there are none."""
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def _null(value: Any) -> Any:
    """nan → None, since JSON has no nan."""
    if isinstance(value, dict):
        return {key: _null(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_null(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
