"""A sweep's report: an executed notebook and one HTML file, both written from the sweep's records. No torch here.

`open` gives a sweep as pandas DataFrames; `write` makes report.ipynb and report.html in its folder. Files: sweep_data
(the DataFrames), sections + templates (the contents), notebook_api (both, for notebooks), template + notebook (the
cells and their execution), page (HTML).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import figures
from bench.analysis import tables
from bench.analysis.paper_table import paper_table
from bench.common.errors import UserError
from bench.common.files import atomic_write_text
from bench.report.notebook_api import SweepReport

__all__ = ["SweepReport", "open", "refresh", "write", "write_latex"]


def open(folder: Path | str, results: Path | str | None = None) -> SweepReport:
    """A sweep's folder, results/<spec>_<scale>; runs/ lies in `results`, by default the parent. Raises UserError."""
    folder = Path(folder).resolve()
    return SweepReport(folder, Path(results).resolve() if results else folder.parent)


def write(sweep_folder: Path, results: Path | None = None) -> list[Path]:
    """report.ipynb and report.html of a sweep in whatever state: finished, failed, running, without runs.

    Tables that differ from the runs' records, and figures that are missing or older, are made first. Raises UserError.
    """
    from bench.report.notebook import execute
    from bench.report.page import page

    sweep = open(sweep_folder, results)
    refresh(sweep)
    notebook = execute(sweep.folder, sweep.results)
    protocols = ", ".join(sweep.protocols())
    subtitle = " · ".join(filter(None, [f"scale {sweep.scale}", f"{len(sweep.records.runs)} runs", protocols]))
    written = {"report.ipynb": _notebook_text(notebook), "report.html": page(notebook, sweep.name, subtitle)}
    for name, text in written.items():
        atomic_write_text(sweep.folder / name, text)
    return [Path(sweep_folder) / name for name in written]


def write_latex(sweep_folder: Path, results: Path | None = None, columns: Sequence[str] = ()) -> Path:
    """tables/paper.tex: the first protocol's results for a two-column article; `columns`: see
    bench.analysis.paper_table. Raises UserError."""
    sweep = open(sweep_folder, results)
    if sweep.summary_only:
        raise UserError(f"{sweep_folder} is a summary without its runs: its LaTeX table is tables/table.tex")
    columns = [name.strip() for name in columns if name.strip()]
    path = Path(sweep_folder) / "tables" / "paper.tex"
    atomic_write_text(path, paper_table(sweep.records, next(iter(sweep.protocols()), ""), columns))
    return path


def refresh(sweep: SweepReport) -> None:
    """Write tables that are missing or differ from the records, and figures that are missing or older than these.
    Diagrams need torch and are drawn by a process of its own."""
    if sweep.summary_only:
        return
    newest = max(_record_times(sweep), default=0.0)
    tables.write(sweep.folder, sweep.results)
    drawn = sweep.folder / "figures"
    traced = any(run.folder.traces() for run in sweep.records.runs)
    kinds = [kind for kind in figures.KINDS if kind != "model" and (kind not in figures.of_traces.KINDS or traced)]
    if kinds := [kind for kind in kinds if _older(drawn / f"{kind}.png", newest)]:
        figures.write(sweep.folder, sweep.results, kinds)
    if not list(drawn.glob("model_*.svg")):
        command = [sys.executable, "-m", "bench.figures", str(sweep.folder), "--results", str(sweep.results)]
        root = Path(__file__).resolve().parents[2]
        subprocess.run([*command, "--only", "model"], cwd=root, capture_output=True, check=False)


def _record_times(sweep: SweepReport) -> Iterator[float]:
    """When each run last recorded something that a report shows."""
    for run in sweep.records.runs:
        for pattern in ("status.json", "metrics.jsonl", "evals/*.json", "profiles/*.json", "traces/*.json"):
            yield from (path.stat().st_mtime for path in run.folder.path.glob(pattern))


def _older(path: Path, newest: float) -> bool:
    return not path.is_file() or path.stat().st_mtime < newest


def _notebook_text(notebook: object) -> str:
    import nbformat

    text: str = nbformat.writes(notebook)  # type: ignore[no-untyped-call]
    return text + "\n"
