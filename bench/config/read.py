"""YAML 1.2 and command-line overrides → trees of values that know their file and line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

TYPED = {f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool", "null")}
MOST_VALUES = 100_000  # of a file, aliases expanded


@dataclass(frozen=True, slots=True)
class Node:
    """A scalar, list[Node] or dict[str, Node], and where it stands: "file:line", or "command line: key=value".

    `text` is a scalar as written: where a field takes text, `version: 1.10` is "1.10".
    """

    value: Any
    where: str
    text: str | None = None

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
    """Everything wrong so far, each "where: what is wrong and what to do", none twice."""

    def add(self, where: str, message: str) -> None:
        if (text := f"{where}: {message}") not in self:
            self.append(text)

    def in_order(self) -> list[str]:
        """File by file, by line."""
        files = list(dict.fromkeys(_file_and_line(problem)[0] for problem in self))
        return sorted(self, key=lambda problem: (files.index((at := _file_and_line(problem))[0]), at[1]))


def _file_and_line(problem: str) -> tuple[str, int]:
    match = re.match(r"(.*?):(\d+): ", problem)
    return (match[1], int(match[2])) if match else (problem.partition(": ")[0], 0)


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


def flatten(
    settings: Mapping[str, Node], is_leaf: Callable[[str, Node], bool] = lambda _key, _node: False, prefix: str = ""
) -> Iterator[tuple[str, Node]]:
    """Nested maps → dotted keys, down to scalars, lists, empty maps and whatever `is_leaf` keeps whole."""
    for word, node in settings.items():
        key = prefix + word
        if isinstance(node.value, dict) and node.value and not is_leaf(key, node):
            yield from flatten(node.value, is_leaf, f"{key}.")
        else:
            yield key, node


def read(path: Path, problems: Problems) -> Document:
    """Read a spec file; whatever is wrong goes to `problems`, and the rest is still read."""
    where = display_path(path)
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        problems.add(where, f"cannot be read: {error.strerror}{_similar_files(path)}")
        return Document(path, where, Node({}, where), ())
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        encoding = "UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "LATIN1"
        problems.add(f"{where}:{line}", f"is not UTF-8 text (it may be {encoding}): save it as UTF-8, "
                     f"iconv -f {encoding} -t UTF-8 {where} > NEW.yaml")  # fmt: skip
        return Document(path, where, Node({}, where), ())
    header = []
    for line_text in text.splitlines():
        if not line_text.startswith("#"):
            break
        header.append(line_text.lstrip("#").strip())
    root = _Parser(where, problems, line_numbers=True).parse(text)
    if not isinstance(root.value, dict):
        if root.value is not None:
            problems.add(root.where, "a spec is a mapping of keys to values, such as `base: freesplatter`")
        root = Node({}, f"{where}:1")
    return Document(path, where, root, tuple(header))


def _similar_files(path: Path) -> str:
    """What may be meant by a folder, a name without its suffix or its folder, or a misspelled one."""
    if path.is_dir():
        inside = sorted(display_path(file) for file in path.glob("*.yaml"))
        return f"; name one of its specs: {', '.join(inside)}" if inside else ""
    folders = (path.parent, Path("ablations"), Path("ablations/base"))
    for folder in folders:
        if (file := folder / f"{path.name.removesuffix('.yaml')}.yaml").is_file() and file != path:
            return f" (did you mean {display_path(file)!r}?)"
    files = [display_path(file) for folder in folders for file in folder.glob("*.yaml")]
    return did_you_mean(display_path(path), files)


def parse_override(text: str, problems: Problems) -> tuple[str, Node] | None:
    """`key=value` of the command line. [lists], {mappings} and "quoted text" are YAML; anything else is one scalar, so
    that a `#` or a `: ` in it cuts nothing off."""
    where = f"command line: {text}"
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        problems.add(where, "an override reads key=value, such as train.steps=100")
        return None
    before, parser = len(problems), _Parser(where, problems, line_numbers=False)
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    node = parser.parse(value) if quoted or value.lstrip()[:1] in ("[", "{") else parser.scalar(value)
    return (key.strip(), node) if len(problems) == before else None


class _Parser:
    """YAML → Nodes: numbers, booleans and null as YAML 1.2 resolves them, all else (dates, foreign tags) as text."""

    def __init__(self, where: str, problems: Problems, *, line_numbers: bool) -> None:
        self.yaml = YAML(typ="safe", pure=True)
        self.where, self.problems, self.line_numbers, self.values = where, problems, line_numbers, 0

    def parse(self, text: str) -> Node:
        try:
            node = self.yaml.compose(text)
            return (
                Node(None, self._place(0)) if node is None else self._tree(node, self._place(node.start_mark.line), ())
            )
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = self._place(mark.line) if mark else self.where
            self.problems.add(place, f"not valid YAML: {error.problem or error.context}")
        except YAMLError as error:
            self.problems.add(self.where, f"not valid YAML: {str(error).splitlines()[0]}")
        except RecursionError:
            self.problems.add(self.where, "lists and mappings are nested too deeply: a spec needs six levels at most")
        return Node(None, self.where)

    def scalar(self, text: str) -> Node:
        """One plain scalar, without a document around it."""
        tag = self.yaml.resolver.resolve(ScalarNode, text.strip(), (True, False))
        return self._value(ScalarNode(tag, text.strip()), self.where, text)

    def _place(self, line: int) -> str:
        return f"{self.where}:{line + 1}" if self.line_numbers else self.where

    def _value(self, node: ScalarNode, at: str, text: str) -> Node:
        if str(node.tag) not in TYPED:
            return Node(node.value, at, text)
        try:
            return Node(self.yaml.constructor.construct_object(node), at, text)
        except (ValueError, YAMLError):
            self.problems.add(at, f"{_shortened(text)} is no value that YAML knows")
            return Node(None, at)

    def _tree(self, node: Any, at: str, around: tuple[Any, ...]) -> Node:
        self.values += 1
        if self.values > MOST_VALUES:
            raise YAMLError(f"more than {MOST_VALUES:,} values, aliases expanded")
        if isinstance(node, ScalarNode):
            return self._value(node, at, node.value)
        if any(node is other for other in around):
            self.problems.add(at, "an alias stands for something that contains it: write the values out")
            return Node(None, at)
        around = (*around, node)
        if isinstance(node, SequenceNode):
            return Node([self._tree(child, self._place(child.start_mark.line), around) for child in node.value], at)
        assert isinstance(node, MappingNode)
        settings: dict[str, Node] = {}
        for key, child in node.value:
            place = self._place(key.start_mark.line)
            if not isinstance(key, ScalarNode):
                self.problems.add(place, "a key is one word, not a list or a mapping")
            elif str(key.tag).endswith(":merge"):
                self.problems.add(place, "`<<` is not supported: a spec inherits from its `base` alone")
            elif key.value in settings:
                self.problems.add(place, f"{key.value} is given twice (first at {settings[key.value].where})")
            else:
                settings[key.value] = self._tree(child, place, around)
        return Node(settings, at)


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}…")
