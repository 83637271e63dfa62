"""What a sweep has come to: ends of runs that nobody could record, then runs.jsonl, tables, figures and the report."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from bench import attempts
from bench.atomic import atomic_write_text
from bench.lease import Held, Lease, LeasedWriter, Stale
from bench.record import RunFolder, Status, read_json, read_lines, run_folder, write_json
from bench.slurm.standing import Standing, look
from bench.states import State

log = logging.getLogger(__name__)


def collect(sweep: Path, results: Path, report: bool = True) -> list[Path]:
    """Everything that a finished sweep shows; what is missing of it stays empty."""
    from bench import figures, tables

    for standing in look(sweep, results).runs:
        settle(standing, results)
    refresh(sweep, results)
    written = [*tables.write(sweep, results), *figures.write(sweep, results)]
    if report:
        from bench import report as made

        try:
            written += made.write(sweep, results)
        except Exception:  # tables and figures stand, whatever the report lacks
            log.exception("no report")
    return written


def settle(standing: Standing, results: Path) -> None:
    """Write down the end of a run whose job is over and left no word."""
    if not standing.unrecorded:
        return
    folder = run_folder(results, standing.id)
    try:
        with Lease(folder.path) as lease:
            writer = LeasedWriter(folder.path, lease)
            status = Status(standing.unrecorded, standing.phase, standing.message)
            folder.set_status(status, writer.check)
            for last in attempts.attempts(folder)[-1:]:
                if "ended" not in last:
                    attempts.finish(writer, status, last["number"])
    except (Held, Stale):
        return


def refresh(sweep: Path, results: Path) -> None:
    """The runs' states in runs.jsonl, and the environment of a run that is done."""
    lines = read_lines(sweep / "runs.jsonl")
    for line in lines:
        status = run_folder(results, line["id"]).status()
        line |= {"status": status.state, "phase": status.phase, "message": status.message}
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    atomic_write_text(sweep / "runs.jsonl", text)
    for folder in (RunFolder(results / "runs" / line["id"]) for line in lines if line["status"] == State.DONE):
        if (recorded := folder.path / "environment.json").is_file():
            write_json(sweep / "environment.json", read_json(recorded))
            return
