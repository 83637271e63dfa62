"""The code of a run's choices. It is no part of the id, which is the spec's; it is recorded, so that an edit shows."""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench import outputs
from bench.common.paths import SOURCE
from bench.config.schema import RunSpec
from models.parts import PartSpec

PACKAGES = ("models", "bench")
WITHOUT_RESULTS = ("bench.common.", "bench.runs.")  # packages imported by many; they decide no number


def source_hashes(spec: RunSpec) -> dict[str, str]:
    """{"models/encoders/conv.py": the first 16 hex digits of its sha256, …}: what the run's choices compute with.

    Covered are the file of every named choice (parts of the model, data source, view choice, losses), bench/outputs/ of
    the output's kind, models/ead.py, which joins the parts, and all that these import from models/ and bench/, at any
    depth, also inside functions and by `import_module` of a literal name (which brings in the renderer), with C++ files
    beside them. Not covered are what only trains, evaluates or assembles batches of whatever was chosen
    (bench/training/, bench/data/assemble.py, …) and other packages: for those the commit and the versions are recorded.
    """
    pending = {type(part).__module__: Path(inspect.getfile(type(part))) for part in _parts(spec)}
    pending[type(spec.model).__module__] = Path(inspect.getfile(type(spec.model)))
    output_type = type(outputs.of_kind(spec.model.output.kind))
    pending[output_type.__module__] = Path(inspect.getfile(output_type))
    hashes: dict[str, str] = {}
    while pending:
        module, path = pending.popitem()
        content, name = path.read_bytes(), _name(module, path)
        hashes[name] = _digest(content)
        for source in path.parent.glob("csrc/*.cpp"):
            hashes[f"{name.rpartition('/')[0]}/csrc/{source.name}"] = _digest(source.read_bytes())
        for imported in _imports(content, module if path.stem == "__init__" else module.rpartition(".")[0]):
            file = _file(imported)
            if file and _name(imported, file) not in hashes:
                pending[imported] = file
    return dict(sorted(hashes.items()))


def changed_sources(spec: RunSpec, recorded: Mapping[str, str]) -> list[str]:
    """Files that differ from what a run was trained with. Older records hold the choices' own files alone."""
    return [name for name, digest in source_hashes(spec).items() if recorded.get(name, digest) != digest]


def _parts(value: Any) -> Iterator[PartSpec]:
    if isinstance(value, PartSpec):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from _parts(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _parts(item)


def _name(module: str, path: Path) -> str:
    return module.replace(".", "/") + ("/__init__.py" if path.stem == "__init__" else ".py")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _file(module: str) -> Path | None:
    """Of a module of ours that may change results; None for any other name."""
    if module.split(".")[0] not in PACKAGES or module.startswith(WITHOUT_RESULTS):
        return None
    path = SOURCE.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@lru_cache(maxsize=1024)
def _imports(content: bytes, package: str) -> tuple[str, ...]:
    """Names that a source file in `package` imports, but for type checking alone: modules, or what may be one."""
    modules: list[str] = []
    pending: list[ast.AST] = [ast.parse(content)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
            continue
        pending += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
            modules += [name if _file(name) else module for name in names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
            name = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
            modules += [name] if isinstance(name, str) else []
    return tuple(dict.fromkeys(modules))
