"""What a sweep has come to: ends of runs that nobody could record, then runs.jsonl, tables, figures and the report."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from bench.common.files import atomic_write_text
from bench.common.json_files import read_lines
from bench.runs import attempts
from bench.runs.folder import Status, run_folder
from bench.runs.lease import (
    Lease,
    LeasedWriter,
    LeaseHeld,
    LeaseLost,
)
from bench.slurm.run_state import RunState, query_sweep

log = logging.getLogger(__name__)


def collect(sweep: Path, results: Path, report: bool = True) -> list[Path]:
    """Everything that a finished sweep shows; what is missing of it stays empty."""
    from bench import figures
    from bench.analysis import tables

    for standing in query_sweep(sweep, results).runs:
        record_final_status(standing, results)
    refresh(sweep, results)
    written = [*tables.write(sweep, results), *figures.write(sweep, results)]
    if report:
        from bench import report as made

        try:
            written += made.write(sweep, results)
        except Exception:  # tables and figures stand, whatever the report lacks
            log.exception("no report")
    return written


def record_final_status(standing: RunState, results: Path) -> None:
    """Write down the end of a run whose job is over and left no word."""
    if not standing.unrecorded:
        return
    folder = run_folder(results, standing.id)
    try:
        with Lease(folder.path) as lease:
            writer = LeasedWriter(folder.path, lease)
            status = Status(standing.unrecorded, standing.phase, standing.message)
            folder.set_status(status, writer.check)
            for last in attempts.read_attempts(folder)[-1:]:
                if "ended" not in last:
                    attempts.finish_attempt(writer, status, last["number"])
    except (LeaseHeld, LeaseLost):
        return


def refresh(sweep: Path, results: Path) -> None:
    """The runs' states in runs.jsonl, and which code and machines produced their results."""
    lines = read_lines(sweep / "runs.jsonl")
    for line in lines:
        folder = run_folder(results, line["id"])
        status = folder.status()
        line |= {"status": status.state, "phase": status.phase, "message": status.message}
        line["provenance"] = folder.provenance()
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    atomic_write_text(sweep / "runs.jsonl", text)
