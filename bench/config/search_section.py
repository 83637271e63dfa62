"""The `search` section of a spec: what a sampler may propose on the spec's base, what is wanted, and how often.

    search:
      trials: 14                       # runs, beside the spec's own, which are marked in the figure
      sampler: tpe                     # tpe, nsga2, random, grid
      objectives: [psnr, parameters]   # two or three; bench/config/objectives.py
      fields:
        model.encoder.patch: [4, 8]
        train.learning_rate: {log: [1.0e-3, 1.0e-2]}    # or {uniform: [low, high]}
      zip: {…}                         # lists in step: one choice, as in a sweep

A scale may replace any of it, `fields` key by key. A field that the proposed parts lack is left out of that run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

from bench import protocols
from bench.common.errors import ConfigError
from bench.config import search_space
from bench.config.merge import SCALES, Layer, State, apply_where_present, layer
from bench.config.objectives import Objective, available_objectives
from bench.config.read import Node, Problems, did_you_mean, parse_override
from bench.config.schema import EvaluationSpec
from bench.config.search_definition import Sampler, Search
from bench.config.search_space import Proposed, Range
from bench.config.spec_fields import slot_of
from bench.config.spec_files import BaseFile, SpecFile, initial_state, read_base, read_spec, refuse_scaled
from bench.config.sweep import Sweep, load
from bench.protocols import Protocol

__all__ = ["Search", "load_search"]

KEYS = {"trials": 20, "sampler": "tpe", "seed": 0, "objectives": None, "fields": None, "zip": None}  # defaults


def load_search(path: Path | str, overrides: Sequence[str] = (), scale: str = "tiny") -> Search:
    """Raises ConfigError with every problem of the whole file."""
    path, problems = Path(path), Problems()
    try:
        load(path, overrides, scale)
    except ConfigError as error:
        problems.extend(error.problems)
    spec = read_spec(path, Problems())
    if not problems and not any("search" in level for level in (spec.sweep, *spec.sweep_at.values())):
        problems.add(f"{spec.document.where}:1", "has no `search` section; a sweep is run by python -m bench.run")
    base = read_base(spec.base, spec, Problems()) if spec.base else None
    if base is None:
        problems.add(f"{spec.document.where}:1", "names no `base`, which a search's proposals change")
        raise ConfigError(problems.in_order())
    reader = _Reader(spec, base, overrides, problems)
    fields = {name: reader.fields_at(name) for name in SCALES}
    reader.compare(fields, scale)
    return reader.search(fields, scale, lambda: load(path, overrides, scale))


class _Reader:
    """The sections of one file, scale by scale."""

    def __init__(self, spec: SpecFile, base: BaseFile, overrides: Sequence[str], problems: Problems) -> None:
        self.spec, self.base, self.problems = spec, base, problems
        self.fixed = dict(parsed for text in overrides if (parsed := parse_override(text, Problems())))
        self.command = layer(self.fixed, Problems())

    def section(self, scale: str) -> dict[str, Node]:
        """The merged keys."""
        merged: dict[str, Node] = {}
        for level in (self.spec.sweep, self.spec.sweep_at.get(scale, {})):
            node = level.get("search", Node({}, ""))
            if not isinstance(node.value, dict):
                self.problems.add(node.where, f"search is a mapping: {', '.join(KEYS)}")
                continue
            for key, child in node.value.items():
                before = merged.get(key)
                if key not in KEYS:
                    self.problems.add(child.where, f"no field search.{key}{did_you_mean(key, tuple(KEYS))}; "
                                      f"search has {', '.join(KEYS)}")  # fmt: skip
                elif key == "fields" and before and isinstance(before.value, dict) and isinstance(child.value, dict):
                    merged[key] = Node(before.value | child.value, child.where)
                else:
                    merged[key] = child
        return merged

    def fields_at(self, scale: str) -> tuple[Proposed, ...]:
        """What is proposed at a scale, types and all checked; what the command line fixes is not."""
        section, start = self.section(scale), initial_state(self.base, self.spec, scale, Problems())
        fields = [
            *search_space.fields(section.get("fields"), self.problems),
            *search_space.zips(section.get("zip"), self.problems),
        ]
        for one, other in combinations(fields, 2):
            for key in one.options[0].keys() & other.options[0].keys():
                self.problems.add(other.where, f"{key} is searched twice (also at {one.where})")
        contexts = [start, *self._contexts(start, fields, scale)]
        for field in fields:
            self._check(field, contexts, scale)
        return tuple(field for field in fields if not field.options[0].keys() <= self.command.places().keys())

    def _contexts(self, start: State, fields: Sequence[Proposed], scale: str) -> Iterator[State]:
        """The start with each option that names a part: a field may belong to a part that is proposed beside it."""
        for option in (option for field in fields for option in field.options):
            if any(slot_of(key) == key for key in option):
                state = dict(start)
                apply_where_present(state, layer(option, Problems()), scale, Problems())
                yield state

    def _check(self, field: Proposed, contexts: Sequence[State], scale: str) -> None:
        """Each option must be possible in some context."""
        for option in field.options:
            before = len(self.problems)
            settings = layer(option, self.problems)
            if len(self.problems) > before:
                continue
            refuse_scaled(settings, self.base, self.spec, scale, self.problems, "search: {{fields: {{{}: […]}}}}")
            misfits = [_misfits(settings, state, scale) for state in contexts]
            if all(misfits):
                self.problems.extend(text for text in misfits[0] if text not in self.problems)
        for key in set(field.options[0]) & self.spec.settings.places().keys():
            self.problems.add(field.where, f"{key} is searched here, but `set` sets it: leave it out of one of them")

    def compare(self, at_scales: Mapping[str, Sequence[Proposed]], scale: str) -> None:
        """A front member is carried to another scale by its place in that scale's list."""
        for other, fields in at_scales.items():
            names = {field.name: field for field in fields}
            for field in at_scales[scale]:
                match = names.get(field.name)
                if match is None or type(match) is not type(field):
                    self.problems.add(field.where, f"{field.name} is not searched in the same way at scale {other}")
                elif len(match.options) != len(field.options):
                    counts = f"{len(field.options)} values at scale {scale} and {len(match.options)} at {other}"
                    self.problems.add(match.where, f"{field.name} has {counts}: give each its counterpart")

    def search(self, at_scales: Mapping[str, tuple[Proposed, ...]], scale: str, sweep: Callable[[], Sweep]) -> Search:
        """With its numbers and names. Raises ConfigError if anything was or is wrong."""
        section, fields = self.section(scale), at_scales[scale]
        if not fields:
            self.problems.add(self.where, "nothing is searched: name some `fields`, or a `zip`")
        trials, seed = self._number(section, "trials", 1), self._number(section, "seed", 0)
        sampler = self._sampler(section, fields)
        start = initial_state(self.base, self.spec, scale, Problems())
        apply_where_present(start, self.command, scale, Problems())
        names = start["evaluation.protocols"].value if "evaluation.protocols" in start else EvaluationSpec().protocols
        known = protocols.names()
        protocol = protocols.get(names[0] if names[0] in known else known[0])  # validation reports an unknown name
        objectives = self._objectives(section, protocol)
        if self.problems:
            raise ConfigError(self.problems.in_order())
        by_name = {name: {field.name: field for field in scaled} for name, scaled in at_scales.items()}
        ordered = {name: tuple(scaled[field.name] for field in fields) for name, scaled in by_name.items()}
        return Search(
            sweep(), fields, objectives, protocol, trials, sampler, seed, self.spec, ordered, start, self.fixed
        )

    @property
    def where(self) -> str:
        """Of the section."""
        levels = (self.spec.sweep, *self.spec.sweep_at.values())
        return next((level["search"].where for level in levels if "search" in level), f"{self.spec.document.where}:1")

    def _number(self, section: Mapping[str, Node], key: str, least: int) -> int:
        node = section.get(key, Node(KEYS[key], ""))
        if type(node.value) is not int or node.value < least:
            self.problems.add(node.where, f"search.{key}: expected a whole number, at least {least}")
            return least
        return node.value

    def _sampler(self, section: Mapping[str, Node], fields: Sequence[Proposed]) -> Any:
        node, names = section.get("sampler", Node(KEYS["sampler"], "")), get_args(Sampler)
        if node.value not in names:
            self.problems.add(node.where, f"no sampler {node.value!r}{did_you_mean(str(node.value), names)}; "
                              f"it may be {', '.join(names)}")  # fmt: skip
        if node.value == "grid" and (ranges := [field for field in fields if isinstance(field, Range)]):
            self.problems.add(ranges[0].where, f"sampler grid needs a list of values for {ranges[0].name}")
        return node.value

    def _objectives(self, section: Mapping[str, Node], protocol: Protocol) -> tuple[Objective, ...]:
        node, available = section.get("objectives", Node(None, self.where)), available_objectives(protocol)
        names = [str(name.plain()) for name in node.value] if isinstance(node.value, list) else []
        for index, name in enumerate(names):
            if name not in available:
                hint = f"{did_you_mean(name, tuple(available))}; it may be {', '.join(available)}"
                self.problems.add(node.value[index].where, f"no objective {name!r}{hint}")
        if not 2 <= len(set(names)) == len(names) <= 3:
            self.problems.add(node.where, "search.objectives: two or three of them, such as [psnr, parameters]")
        return tuple(available[name] for name in names if name in available)


def _misfits(settings: Layer, state: State, scale: str) -> list[str]:
    """Why an option cannot be laid over a state."""
    problems = Problems()
    for where, message in apply_where_present(dict(state), settings, scale, problems).items():
        problems.add(where, message)
    return problems
