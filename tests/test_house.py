"""Imports run one way (README's map): a lower layer never reaches for a higher one."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = (
    ("models.tensors",),
    ("models.layers", "models.parts"),
    ("models.encoders", "models.aggregators", "models.heads", "models.outputs"),
    ("models.ead",),
    ("models.weights", "models"),
    ("bench.errors", "bench.paths", "bench.atomic", "bench.process", "bench.states", "bench.console"),
    ("bench.lpips_weights", "bench.record", "bench.endings"),
    ("bench.data", "bench.rendering", "bench.losses", "bench.protocols", "bench.paper"),
    ("bench.objectives", "bench.spec"),
    ("bench.scenes",),
    ("bench.train", "bench.evaluate", "bench.measure", "bench.tables", "bench.figures"),
    ("bench.step_parts", "bench.pareto", "bench.study"),
    ("bench.trace",),
    ("bench.launch", "bench.options", "bench.work", "bench.overfit", "bench.report", "bench.plan"),
    ("bench.run", "bench.slurm", "bench.status", "bench.cancel", "bench.benchmark", "bench.benchmarks", "bench.setup"),
    ("bench.search", "bench.search_plan"),
)


def modules() -> Iterator[tuple[str, Path]]:
    for package in ("models", "bench"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield name.removesuffix(".__init__"), path


def layer(module: str) -> int | None:
    """The place of the longest listed prefix; None for modules that the list leaves free."""
    found = [(len(p), i) for i, row in enumerate(LAYERS) for p in row if module == p or module.startswith(p + ".")]
    return max(found)[1] if found else None


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Modules imported when the file is: not inside functions, not for type checking alone."""
    pending = list(ast.parse(path.read_text()).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            pending += node.body + node.orelse
        elif isinstance(node, ast.Try):
            pending += node.body


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_run_one_way(module: str, path: Path) -> None:
    mine = layer(module)
    for imported, line in imports(path):
        where = f"{path.relative_to(ROOT)}:{line} imports {imported}"
        if module.startswith("models"):
            assert not imported.startswith("bench"), where
        theirs = layer(imported)
        if mine is not None and theirs is not None and imported.startswith(("models.", "bench.")):
            assert theirs <= mine, where


@pytest.mark.parametrize("package", ["encoders", "aggregators", "heads", "outputs"])
def test_parts_do_not_know_their_siblings(package: str) -> None:
    siblings = ("models.encoders", "models.aggregators", "models.heads", "models.outputs")
    for path in (ROOT / "models" / package).glob("*.py"):
        assert not [name for name, _ in imports(path) if name.startswith(siblings)], path


def test_the_walk_sees_a_breach(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("from bench.run import main\n")
    assert [name for name, _ in imports(wrong)] == ["bench.run.main"]
    assert (layer("models.ead") or 0) < (layer("bench.run") or 0)


def test_help_does_not_import_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; sys.argv = ['run', '--help']\ntry:\n import bench.run; bench.run.main()\nexcept SystemExit: pass\n"
    )
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL).returncode == 0


def test_every_package_is_installed() -> None:
    """pyproject.toml lists packages by hand: `models` and `bench` are common names, and nothing else may slip in."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        path.parent.relative_to(ROOT)
        for package in ("models", "bench")
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert sorted(listed) == sorted(".".join(path.parts) for path in found)
