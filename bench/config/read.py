"""YAML 1.2 and command-line overrides → trees of values that know their file and line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

TYPED = {f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool", "null")}


@dataclass(frozen=True, slots=True)
class Node:
    """A scalar, list[Node] or dict[str, Node], and where it stands: "file:line", or "command line: key=value"."""

    value: Any
    where: str

    def plain(self) -> Any:
        """The value without positions."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        return [child.plain() for child in self.value] if isinstance(self.value, list) else self.value


@dataclass(frozen=True)
class Document:
    """A spec file as read: its settings and its header comment's lines."""

    path: Path
    where: str  # the path as messages show it
    root: Node
    header: tuple[str, ...]


class Problems(list[str]):
    """Everything found wrong so far, each "where: what is wrong and what to do", none twice."""

    def add(self, where: str, message: str) -> None:
        if (text := f"{where}: {message}") not in self:
            self.append(text)

    def in_order(self) -> list[str]:
        """File by file, by line."""
        files = list(dict.fromkeys(_file_and_line(problem)[0] for problem in self))
        return sorted(self, key=lambda problem: (files.index((at := _file_and_line(problem))[0]), at[1]))


def _file_and_line(problem: str) -> tuple[str, int]:
    found = re.match(r"(.*?):(\d+): ", problem)
    return (found[1], int(found[2])) if found else (problem.partition(": ")[0], 0)


def did_you_mean(word: str, choices: Sequence[str]) -> str:
    """ " (did you mean 'patch'?)", or nothing."""
    close = get_close_matches(word, choices, n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def display_path(path: Path) -> str:
    """The path as a message shows it: relative to the current folder if it lies below."""
    absolute, here = path.absolute(), Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(path)


def to_node(value: object, where: str) -> Node:
    """A plain value as a tree, all of it at one place."""
    if isinstance(value, Mapping):
        return Node({str(key): to_node(child, where) for key, child in value.items()}, where)
    if isinstance(value, list | tuple):
        return Node([to_node(child, where) for child in value], where)
    return Node(value, where)


def read(path: Path, problems: Problems) -> Document:
    """Read a spec file; whatever is wrong goes to `problems`, and the rest is still read."""
    where = display_path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        others = [display_path(other) for other in path.parent.glob("*.yaml")]
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        problems.add(where, f"cannot be read: {reason}{did_you_mean(where, others)}")
        return Document(path, where, Node({}, where), ())
    header = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        header.append(line.lstrip("#").strip())
    root = _parse(text, where, problems, line_numbers=True)
    if not isinstance(root.value, dict):
        if root.value is not None:
            problems.add(root.where, "a spec is a mapping of keys to values, such as `base: freesplatter`")
        root = Node({}, f"{where}:1")
    return Document(path, where, root, tuple(header))


def parse_override(text: str, problems: Problems) -> tuple[str, Node] | None:
    """`key=value` of the command line; the value is YAML."""
    where = f"command line: {text}"
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        problems.add(where, "an override reads key=value, such as train.steps=100")
        return None
    before = len(problems)
    node = _parse(value, where, problems, line_numbers=False)
    return (key.strip(), node) if len(problems) == before else None


def _parse(text: str, where: str, problems: Problems, *, line_numbers: bool) -> Node:
    yaml = YAML(typ="safe", pure=True)

    def place(line: int) -> str:
        return f"{where}:{line + 1}" if line_numbers else where

    def tree(node: Any, at: str) -> Node:
        if isinstance(node, ScalarNode):
            typed = node.tag in TYPED
            try:
                return Node(yaml.constructor.construct_object(node) if typed else node.value, at)
            except (ValueError, YAMLError):
                problems.add(at, f"{node.value!r} is no value that YAML knows")
                return Node(None, at)
        if isinstance(node, SequenceNode):
            return Node([tree(child, place(child.start_mark.line)) for child in node.value], at)
        assert isinstance(node, MappingNode)
        found: dict[str, Node] = {}
        for key, child in node.value:
            line = place(key.start_mark.line)
            if not isinstance(key, ScalarNode):
                problems.add(line, "a key is one word, not a list or a mapping")
            elif str(key.tag).endswith(":merge"):
                problems.add(line, "`<<` is not supported: a spec inherits from its `base` alone")
            elif key.value in found:
                problems.add(line, f"{key.value} is given twice (first at {found[key.value].where})")
            else:
                found[key.value] = tree(child, line)
        return Node(found, at)

    try:
        node = yaml.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problems.add(place(mark.line) if mark else where, f"not valid YAML: {error.problem or error.context}")
        return Node(None, where)
    except YAMLError as error:
        problems.add(where, f"not valid YAML: {str(error).splitlines()[0]}")
        return Node(None, where)
    return Node(None, place(0)) if node is None else tree(node, place(node.start_mark.line))
