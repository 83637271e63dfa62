"""`where`: which combinations a sweep keeps.

A mapping of fields to values, all of which must match; or a list of such mappings, of which one must. A list of values
means any of them. A named choice is matched by its name, `init.PART` by scratch, weights or run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any

from bench.config import spec_fields
from bench.config.convert import TypeMismatch, convert, field_types
from bench.config.merge import State
from bench.config.read import Node, Problems, did_you_mean, flatten
from bench.config.schema import RunSpec
from bench.config.spec_fields import UnknownField, slot_of


@dataclass(frozen=True)
class Condition:
    """A field and the values that are kept."""

    key: str
    values: tuple[Node, ...]
    where: str

    def holds(self, state: State) -> bool:
        """Whether a run matches. Raises UnknownField, TypeMismatch if no value fits its field."""
        choice = slot_of(self.key)
        if self.key == choice:
            return (state[choice].value if choice in state else None) in [node.plain() for node in self.values]
        name = state[choice].value if choice in state else None
        kind = spec_fields.field_type(self.key, name)
        allowed = [convert(kind, node.plain(), node.text) for node in self.values]
        return (state[self.key].value if self.key in state else _default(self.key, choice, name)) in allowed


def conditions(node: Node, problems: Problems) -> list[list[Condition]]:
    """The alternatives, each a list of conditions."""
    lines = node.value if isinstance(node.value, list) else [node]
    if not lines or not all(isinstance(line.value, dict) and line.value for line in lines):
        problems.add(node.where, "where is a mapping of fields to values, or a list of them of which one must match")
        return []
    alternatives = [
        [
            Condition(key, tuple(value.value) if isinstance(value.value, list) else (value,), value.where)
            for key, value in flatten(line.value)
        ]
        for line in lines
    ]
    for condition in (condition for line in alternatives for condition in line):
        if slot_of(condition.key) == condition.key:
            names = spec_fields.values_of_slot(condition.key)
            for value in (node.plain() for node in condition.values):
                if value not in (None, *names):
                    hint = f"{did_you_mean(str(value), names)}; it may be {', '.join(names)}"
                    problems.add(condition.where, f"{condition.key} is never {value}{hint}")
    return alternatives


class Filter:
    """Decides run by run, and remembers which conditions ever made sense."""

    def __init__(self, alternatives: Sequence[Sequence[Condition]]) -> None:
        self.alternatives = alternatives
        self._messages: dict[tuple[str, str], str] = {}  # of conditions that did not fit a run: (where, key) → why
        self._applicable: set[tuple[str, str]] = set()

    def __call__(self, state: State) -> bool:
        lines = [[self._holds(condition, state) for condition in line] for line in self.alternatives]
        return not lines or any(all(line) for line in lines)

    def _holds(self, condition: Condition, state: State) -> bool:
        try:
            holds = condition.holds(state)
        except (UnknownField, TypeMismatch) as error:
            message = f"{condition.key}: {error}" if isinstance(error, TypeMismatch) else str(error)
            self._messages[condition.where, condition.key] = message
            return False
        self._applicable.add((condition.where, condition.key))
        return holds

    def report(self, problems: Problems) -> None:
        """Conditions on a field that no run has."""
        for (where, key), message in self._messages.items():
            if (where, key) not in self._applicable:
                problems.add(where, message)


def _default(key: str, choice: str | None, name: str | None) -> Any:
    """The default of a field that nothing sets."""
    cls: Any = spec_fields.spec_class_of(choice, name) if choice and name else RunSpec
    words = key[len(choice) + 1 :].split(".") if choice else key.split(".")
    for word in words[:-1]:
        cls = field_types(cls)[word]
    default = next(f.default for f in fields(cls) if f.name == words[-1])
    return None if default is MISSING else default
