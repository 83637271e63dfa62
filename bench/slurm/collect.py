"""The collect job: record final statuses that no process recorded, then write runs.jsonl, tables, figures, report."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from bench.common.files import atomic_write_text
from bench.common.json_files import read_lines
from bench.runs import attempts
from bench.runs.folder import Status, run_folder
from bench.runs.lease import Lease, LeasedWriter, LeaseHeld, LeaseLost
from bench.slurm.run_state import RunState, query_sweep

log = logging.getLogger(__name__)


def collect(sweep: Path, results: Path, report: bool = True) -> list[Path]:
    """Write all results of a sweep and return their paths; missing runs are empty cells."""
    from bench import figures
    from bench.analysis import tables

    for run in query_sweep(sweep, results).runs:
        record_final_status(run, results)
    refresh(sweep, results)
    written = [*tables.write(sweep, results), *figures.write(sweep, results)]
    if report:
        from bench.report import write as write_report

        try:
            written += write_report(sweep, results)
        except Exception:  # tables and figures are written already and stay valid
            log.exception("the report could not be written")
    return written


def record_final_status(run: RunState, results: Path) -> None:
    """Record the final status of a run whose job ended without recording one; leaves a locked run alone."""
    if not run.unrecorded:
        return
    folder = run_folder(results, run.id)
    try:
        with Lease(folder.path) as lease:
            writer = LeasedWriter(folder.path, lease)
            status = Status(run.unrecorded, run.phase, run.message)
            folder.set_status(status, writer.check)
            for last in attempts.read_attempts(folder)[-1:]:
                if "ended" not in last:
                    attempts.finish_attempt(writer, status, last["number"])
    except (LeaseHeld, LeaseLost):
        return


def refresh(sweep: Path, results: Path) -> None:
    """Update states and provenance of the runs in runs.jsonl."""
    lines = read_lines(sweep / "runs.jsonl")
    for line in lines:
        folder = run_folder(results, line["id"])
        status = folder.status()
        line |= {"status": status.state, "phase": status.phase, "message": status.message}
        line["provenance"] = folder.provenance()
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    atomic_write_text(sweep / "runs.jsonl", text)
