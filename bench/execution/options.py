"""The options that commands which train runs share, parsed and checked once."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.common.errors import UserError
from bench.runs.states import RETRYABLE

FOLDER_NAME = re.compile(r"[\w=+][\w.=+-]{0,79}", re.ASCII)
RESERVED = ("runs", "archive", "code", "published")  # folders of results/ with a meaning of their own
SCALES = ("tiny", "small", "paper")


@dataclass(frozen=True)
class RunOptions:
    """A parsed command line. An option that a command does not have keeps its default."""

    spec: Path
    overrides: tuple[str, ...] = ()  # "key=value"
    scale: str = "tiny"
    results: Path = Path("results")
    name: str | None = None  # of the sweep's folder in `results`
    device: str = "auto"  # auto, cpu, cuda or cuda:N
    jobs: int = 1  # runs at once
    threads: int | None = None  # of a run; None: all cores / jobs
    retry: tuple[str, ...] = ()  # failed states that are run again
    dry_run: bool = False
    json: bool = False
    report: bool = True  # write the notebook and the HTML page at the end
    only: str | None = None  # pattern of labels and ids
    force: bool = False
    overfit: int | None = None  # scenes
    slurm: Path | None = None  # the cluster's file
    test_only: bool = False
    estimate: bool = False  # a dry run with what each run will cost
    fit: float | None = None  # GB of a GPU
    submit_anyway: bool = False

    @property
    def estimates(self) -> bool:
        """Whether the command only estimates."""
        return self.estimate or self.fit is not None


def add_shared(parser: argparse.ArgumentParser) -> None:
    """Add the options that bench.run and bench.search share, except SPEC and the overrides."""
    add = parser.add_argument
    add("--scale", default="tiny", choices=SCALES, help="default: tiny, for a laptop")
    add("--name", metavar="NAME", help="of the results' folder; default: the spec's, the scale's and the overrides'")
    add("--retry", metavar="STATES", default="", help=f"retry runs that failed: {', '.join(RETRYABLE)}; or all")
    add("--device", default="auto", help="cpu, cuda or cuda:N; default: cuda if there is one")
    add("--jobs", type=int, default=1, metavar="N", help="runs at once (default 1)")
    add("--threads", type=int, metavar="N", help="CPU threads of a run (default: all cores / jobs)")
    add("--no-report", dest="report", action="store_false", help="write no notebook and no HTML page at the end")
    add("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Add the options of bench.run that submit to a cluster, or estimate what a run costs there."""
    add = parser.add_argument
    add("--slurm", type=Path, metavar="FILE", help="submit the runs to a cluster, e.g. slurm/a100.yaml, and return")
    add("--test-only", action="store_true", help="with --slurm: print the scheduler's estimate and submit nothing")
    add("--estimate", action="store_true", help="a dry run with FLOPs, memory and hours of each run")
    add("--fit", type=float, metavar="GB", help="an estimate, and what makes each run fit GPUs of so many GB")
    add("--submit-anyway", action="store_true", help="with --slurm: submit runs that do not fit their GPUs, too")


def parse_options(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> RunOptions:
    """The command line as RunOptions. Raises UserError for values that no command accepts."""
    values = vars(parser.parse_intermixed_args(argv))
    overrides, retry = tuple(values.pop("overrides")), _retry_states(values.pop("retry"))
    if wrong := [word for word in overrides if "=" not in word]:
        raise UserError(f"{wrong[0]!r} is neither an option nor key=value")
    for name in ("jobs", "threads", "overfit"):
        if (number := values.get(name)) is not None and number < 1:
            raise UserError(f"--{name} {number}: it is at least 1")
    if (gigabytes := values.get("fit")) is not None and gigabytes <= 0:
        raise UserError(f"--fit {gigabytes:g}: gigabytes of a GPU, above 0")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", values["device"]):
        raise UserError(f"--device {values['device']}: it may be auto, cpu, cuda or cuda:N")
    folder = values.get("name")
    if folder is not None and (not FOLDER_NAME.fullmatch(folder) or folder in RESERVED):
        rule = f"letters, digits and ._=+-, at most 80, not a dot or dash first, and none of {', '.join(RESERVED)}"
        raise UserError(f"--name {folder!r}: {rule}")
    return RunOptions(overrides=overrides, retry=retry, **values)


def _retry_states(text: str) -> tuple[str, ...]:
    words = tuple(word for word in text.split(",") if word)
    if wrong := [word for word in words if word not in (*RETRYABLE, "all")]:
        raise UserError(f"--retry {wrong[0]}: it may be {', '.join(RETRYABLE)}, several with commas, or all")
    return RETRYABLE if "all" in words else words
