"""The report's notebook: template.py with fixed cell ids, executed in the sweep's folder by this very Python."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import bench

if TYPE_CHECKING:
    from nbformat import NotebookNode

TEMPLATE = Path(__file__).with_name("template.py")
TIMEOUT_S = 600  # of a cell


def execute(folder: Path, results: Path) -> NotebookNode:
    """The executed notebook of a sweep's folder; the same bytes for the same records.

    Raises nbclient's CellExecutionError when a cell fails.
    """
    from nbclient import NotebookClient

    notebook = unexecuted_notebook(folder, results)
    with TemporaryDirectory(prefix="ead-") as private:
        client = NotebookClient(
            notebook,
            km=_kernel(Path(private)),
            timeout=TIMEOUT_S,
            record_timing=False,
            resources={"metadata": {"path": str(folder)}},
        )
        client.execute(cleanup_kc=True, env=_environment(Path(private)))
    return notebook


def unexecuted_notebook(folder: Path, results: Path) -> NotebookNode:
    """Cell ids by position; the folder of the runs is named unless it lies beside the sweep's folder."""
    import jupytext  # type: ignore[import-untyped]

    text = TEMPLATE.read_text(encoding="utf-8")
    if results.resolve() != folder.resolve().parent:
        text = text.replace('open(".")', f'open(".", results={os.path.relpath(results, folder)!r})')
    notebook: NotebookNode = jupytext.reads(text, fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return notebook


def _kernel(private: Path) -> Any:
    """ipykernel in this interpreter, whatever kernels a user has installed under the same name; over sockets in a
    folder that only this user can read, without the network."""
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    return AsyncKernelManager(
        kernel_name="python3",
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
        transport="ipc",
        connection_file=str(private / "kernel.json"),
        ip=str(private / "socket"),
    )


def _environment(private: Path) -> dict[str, str]:
    """Where `bench` lies, also when it was found only through the current folder; a user's start-up files and history
    stay out, and so does a plotting back end under which figures that a cell draws would vanish."""
    root = str(Path(bench.__file__).resolve().parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    inherited = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    return inherited | {"PYTHONPATH": os.pathsep.join(paths), "IPYTHONDIR": str(private / "ipython")}
