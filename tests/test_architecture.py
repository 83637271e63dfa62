"""The layout (README): imports run one way, also inside functions; no circle of files; commands are thin; no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from support.paths import ROOT

BENCH = (  # a package may import those before it
    "common", "runs", "protocols", "runtime", "rendering", "data", "outputs", "losses", "config", "evaluation",
    "training", "profiling", "analysis", "figures", "report", "execution", "slurm", "search",
)  # fmt: skip
MODELS = (
    "tensors", "phases", "layers", "parts", "dpt", "view_weights", "encoders", "aggregators", "heads", "outputs", "ead",
    "published", "weights",
)  # fmt: skip
WITHOUT_TORCH = (  # packages whose import leaves torch alone, so that tables and --help are there at once
    "bench.common", "bench.runs", "bench.analysis", "bench.figures", "bench.report",
)  # fmt: skip
COMMAND_LINES = 60


def modules() -> dict[str, Path]:
    """Every module of the project by its dotted name; a package stands for its __init__.py."""
    paths = [path for package in ("models", "bench") for path in sorted((ROOT / package).rglob("*.py"))]
    return {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in paths}


def imports(path: Path, known: dict[str, Path]) -> Iterator[tuple[str, int]]:
    """(module, line) of every import of the project anywhere in the file: in functions, for type checkers, and by
    `import_module` of a literal name. A name that a spec chooses is not known here."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path}:{node.lineno}: a relative import is not followed"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield (full if full in known else node.module), node.lineno
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            literals = [argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)]
            yield from ((str(name), node.lineno) for name in literals)


def rank(module: str) -> tuple[int, int]:
    """The place of a module: models first, then the packages of bench, then its commands."""
    words = module.split(".")
    if words[0] == "models":
        return 0, MODELS.index(words[1]) if len(words) > 1 and words[1] in MODELS else len(MODELS)
    if len(words) == 1:
        return 1, -1
    return (1, BENCH.index(words[1])) if words[1] in BENCH else (2, 0)


@pytest.mark.parametrize("module", list(modules()))
def test_imports_run_one_way(module: str) -> None:
    known = modules()
    for imported, line in imports(known[module], known):
        if imported.partition(".")[0] in ("models", "bench") and imported != "models":
            where = f"{known[module].relative_to(ROOT)}:{line} imports {imported}"
            assert rank(imported) <= rank(module), where
            assert rank(imported) != (2, 0) or imported == module, f"{where}: a command is no library"


def test_every_package_has_its_place() -> None:
    packages = {path.parent.name for path in (ROOT / "bench").glob("*/__init__.py")}
    assert packages <= set(BENCH), "name the new package in BENCH, between what it imports and what imports it"


def test_no_circle_of_files() -> None:
    """Counting imports inside functions."""
    known = modules()
    graph = {
        module: {name for name, _ in imports(path, known) if name in known and name != module}
        for module, path in known.items()
    }
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' → '.join(error.args[1])}")
    assert set(order) == set(known)


@pytest.mark.parametrize("package", ["encoders", "aggregators", "heads", "outputs"])
def test_parts_do_not_know_other_kinds_of_parts(package: str) -> None:
    """An encoder knows no aggregator, and so on; a variant may build on another file of its own folder."""
    known = modules()
    others = tuple(f"models.{name}." for name in ("encoders", "aggregators", "heads", "outputs") if name != package)
    for path in (ROOT / "models" / package).glob("*.py"):
        assert not [name for name, _ in imports(path, known) if name.startswith(others)], path


@pytest.mark.parametrize("path", sorted((ROOT / "bench").glob("*.py")), ids=lambda path: path.stem)
def test_commands_are_thin(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= COMMAND_LINES, f"{path.name} has {lines} lines: what it does belongs into a package"


@pytest.mark.parametrize("package", WITHOUT_TORCH)
def test_importing_does_not_import_torch(package: str) -> None:
    names = [name for name in modules() if name == package or name.startswith(package + ".")]
    names = [name for name in names if not name.endswith((".__main__", "report.template"))]
    code = f"import sys, {', '.join(names)}\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("command", ["run", "search", "status", "cancel", "report", "figures", "publish", "doctor"])
def test_help_does_not_import_torch(command: str) -> None:
    code = (
        "import runpy, sys; sys.argv = [sys.argv[1], '--help']\n"
        f"try: runpy.run_module('bench.{command}', run_name='__main__')\n"
        "except SystemExit as end: sys.exit(end.code or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "usage" in done.stdout, done.stderr


def test_the_walk_sees_a_breach(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("def late():\n    from bench.run import main\n    import_module('bench.status')\n")
    assert list(imports(wrong, modules())) == [("bench.run", 2), ("bench.status", 3)]
    assert rank("models.ead") < rank("bench.config.merge") < rank("bench.slurm.submit") < rank("bench.run")


def test_every_package_is_installed() -> None:
    """pyproject.toml lists packages by hand: `models` and `bench` are common names, and nothing else may slip in."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    packages = [
        path.parent.relative_to(ROOT) for name in ("models", "bench") for path in (ROOT / name).rglob("__init__.py")
    ]
    assert sorted(listed) == sorted(".".join(path.parts) for path in packages)
