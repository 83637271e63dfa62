"""A checked search: what it proposes, and the runs and specs that its proposals stand for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from bench.config import spec_fields
from bench.config.grid import SweepPoint, is_whole_choice
from bench.config.merge import State, apply_where_present, layer
from bench.config.naming import label_settings
from bench.config.objectives import Objective
from bench.config.read import Node, Problems, flatten
from bench.config.search_space import Choices, Proposed
from bench.config.spec_fields import UnknownField, slot_of
from bench.config.spec_files import BASES, SWEEP, SpecFile, base_files, initial_state, read_base
from bench.config.sweep import Run, Sweep, load
from bench.protocols import Protocol

Sampler = Literal["tpe", "nsga2", "random", "grid"]


@dataclass(frozen=True)
class Search:
    """A search, checked. `values` in its methods map a field's name to the index of a choice, or a number."""

    sweep: Sweep  # the spec's own runs, marked in the figure
    fields: tuple[Proposed, ...]
    objectives: tuple[Objective, ...]
    protocol: Protocol
    trials: int
    sampler: Sampler
    seed: int
    spec: SpecFile
    fields_at_scale: Mapping[str, tuple[Proposed, ...]]
    initial_state: State
    fixed: Mapping[str, Node]  # by the command line

    @property
    def combinations(self) -> int | None:
        """How many proposals there can be; None if some field is a range."""
        sizes = [len(field.options) for field in self.fields if isinstance(field, Choices)]
        return math.prod(sizes) if len(sizes) == len(self.fields) else None

    @cached_property
    def definition(self) -> dict[str, Any]:
        """All that decides what its results mean, ready for JSON: a search is gone on with if it is the same."""
        return {
            "scale": self.sweep.scale,
            "overrides": list(self.sweep.overrides),
            "settings": {key: setting.value for key, setting in sorted(self.initial_state.items())},
            "objectives": [objective.name for objective in self.objectives],
            "fields": {field.name: field.to_dict() for field in self.fields},
        }

    def settings(self, values: Mapping[str, Any]) -> dict[str, Node]:
        return {key: node for field in self.fields for key, node in field.settings(values[field.name]).items()}

    def resolve(self, values: Mapping[str, Any]) -> Run:
        """The run that is proposed. Raises ConfigError where values do not go together."""
        settings, problems = self.settings(values), Problems()
        values = {key: node.plain() for key, node in settings.items()}
        point = SweepPoint(layer(settings, problems), values, values)
        (run,) = load(self.sweep.path, self.sweep.overrides, self.sweep.scale, point).runs
        return run

    def labels(self, proposals: Sequence[Mapping[str, Any]]) -> list[str]:
        """What distinguishes the proposals, as text."""
        settings = [{key: node.plain() for key, node in self.settings(values).items()} for values in proposals]
        return label_settings(settings, [None] * len(settings), [""] * len(settings), "proposal")

    def member(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """A spec of its own for a proposal: at each scale the same places in that scale's lists and ranges."""
        assert self.spec.base is not None
        settings = {}
        for scale, scaled in self.fields_at_scale.items():
            pairs = zip(self.fields, scaled, strict=True)
            nodes = [other.settings(own.map_to_scale(values[own.name], other)) for own, other in pairs]
            settings[scale] = self._present({key: node for some in nodes for key, node in some.items()}, scale)
        return self._spec(str(self.spec.base.value), settings)

    def spec_run_member(self, label: str) -> dict[str, Any]:
        """The same for one of the spec's own runs, which may differ from scale to scale, too."""
        bases, settings = set(), {}
        for scale in self.fields_at_scale:
            overrides = self.sweep.overrides if scale == self.sweep.scale else ()
            for run in load(self.sweep.path, overrides, scale).runs:
                if run.label == label:
                    bases.add(run.origin["base"])
                    settings[scale] = run.settings
        return self._spec(bases.pop(), settings)

    def local_base_file(self, name: str) -> Path | None:
        """The file of a base that lies beside the spec, not in ablations/base/."""
        path = base_files(self.spec.document.path.parent)[name]
        return path if path.parent.resolve() != BASES.resolve() else None

    def _spec(self, base: str, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        root = self.spec.document.root.value
        scales = {}
        for scale, member in settings.items():
            at = root["scales"].value.get(scale, Node({}, "")) if "scales" in root else Node({}, "")
            settings_at_scale = {key: node for key, node in at.value.items() if key not in SWEEP}
            own = {key: node.plain() for key, node in flatten(settings_at_scale, is_whole_choice)}
            fixed = {key: node.plain() for key, node in self.fixed.items()} if scale == self.sweep.scale else {}
            scales[scale] = {**own, **member, **fixed}
        return {"base": base, **({"set": root["set"].plain()} if "set" in root else {}), "scales": scales}

    def _present(self, settings: Mapping[str, Node], scale: str) -> dict[str, Any]:
        """Without the fields that the chosen parts lack."""
        assert self.spec.base is not None
        base = read_base(self.spec.base, self.spec, Problems())
        assert base is not None
        state = initial_state(base, self.spec, scale, Problems())
        apply_where_present(state, layer(settings, Problems()), scale, Problems())
        return {key: node.plain() for key, node in settings.items() if _has(state, key)}


def _has(state: State, key: str) -> bool:
    """Whether the parts named in a state have a field."""
    choice = slot_of(key)
    if choice is None or key == choice:
        return True
    try:
        return spec_fields.field_type(key, state[choice].value if choice in state else None) is not None
    except UnknownField:
        return False
