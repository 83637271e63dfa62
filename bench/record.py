"""Run folders and sweep folders: the one module that reads and writes them. Plain files; no torch.

results/runs/<id>/        spec.json scenes.json status.json lease/ log.txt metrics.jsonl checkpoints/ best/ model.json
                          weights.safetensors train.json evals/ samples/ profiles/ traces/ overfit.json
results/archive/<id>.<n>/ what `--force` put aside
results/<sweep>/          sweep.json runs.jsonl environment.json tables/ figures/
                          and of a search search.json trials.jsonl front/ optuna_journal.log
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import IO, Any, Literal, Protocol, get_args

from bench.errors import BadInput

SCHEMA_VERSION = 1
BEST, BEST_STATE = "best", "state.json"
SCENES = "scenes.json"
State = Literal[
    "planned", "running", "done", "failed", "oom", "nan", "timeout", "cancelled", "preempted", "node_fail", "lost"
]
STATES: tuple[State, ...] = get_args(State)


@dataclass(frozen=True)
class Status:
    """How a run stands: its state, the stage it was in, and for a bad end why and where its log is."""

    state: State = "planned"
    phase: str = ""  # train, evaluate, profile
    message: str = ""
    trace: str = ""  # the last lines of a traceback


class Writer(Protocol):
    """Everything that a stage writes goes through one of these."""

    folder: Path

    def commit(self, name: str, write: Callable[[Path], None]) -> None:
        """`write` fills a file (or a directory, if it makes one) beside `name`, which then takes its place at once."""
        ...

    def append(self, name: str, record: Mapping[str, object]) -> None:
        """Add one JSON line."""
        ...

    def remove(self, name: str) -> None:
        """Take away a file or a directory, if it is there."""
        ...


class PlainWriter:
    """Writes without a lease: for tools and tests that own their folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def check(self) -> None:
        """Called before each write becomes visible; a lease refuses here."""

    def commit(self, name: str, write: Callable[[Path], None]) -> None:
        commit(self.folder / name, write, self.check)

    def append(self, name: str, record: Mapping[str, object]) -> None:
        self.check()
        with (self.folder / name).open("ab+") as file:
            before = b"\n" if _torn(file) else b""
            file.write(before + json.dumps(record).encode() + b"\n")

    def remove(self, name: str) -> None:
        self.check()
        target = self.folder / name
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)


class SilentWriter:
    """Of a rank that computes and leaves writing to the first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def commit(self, name: str, write: Callable[[Path], None]) -> None:
        """Nothing."""

    def append(self, name: str, record: Mapping[str, object]) -> None:
        """Nothing."""

    def remove(self, name: str) -> None:
        """Nothing."""


def commit(target: Path, write: Callable[[Path], None], check: Callable[[], None] = lambda: None) -> None:
    """Write beside `target`, flush to disk, `check`, rename: readers see the old content or the new, whole.

    `write` gets a path that does not exist and makes a file or a directory there. A directory replaces an older one.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    workplace = Path(mkdtemp(prefix=".tmp-", dir=target.parent))
    try:
        made = workplace / target.name
        write(made)
        for path in [made, *made.rglob("*")] if made.is_dir() else [made]:
            _flush(path)
        check()
        if made.is_dir() and target.exists():
            target.rename(workplace / "old")
        made.replace(target)
        _flush(target.parent)
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """What killed commits left in a run folder. Only for who holds the run; others write in lease/ all the same."""
    for path in [*folder.glob(".tmp-*"), *folder.glob("*/.tmp-*")]:
        if path.parent.name != "lease":
            shutil.rmtree(path, ignore_errors=True)


def _torn(file: IO[bytes]) -> bool:
    """Whether a crash left the last line without its end."""
    if file.seek(0, os.SEEK_END) == 0:
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Mapping[str, Any], check: Callable[[], None] = lambda: None) -> None:
    """Atomic; stamped with the schema version."""
    text = json.dumps({"schema_version": SCHEMA_VERSION, **content}, indent=1, ensure_ascii=False) + "\n"
    commit(path, lambda made: _write_text(made, text), check)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Raises BadInput for a file that is damaged or written by a newer version."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is damaged ({error}); remove it and run again") from error
    if (version := content.get("schema_version", 1)) > SCHEMA_VERSION:
        raise BadInput(
            f"{path} has schema version {version}, this EAD-Bench reads up to {SCHEMA_VERSION}: use a newer EAD-Bench"
        )
    return content


def read_lines(path: Path) -> list[dict[str, Any]]:
    """A JSON-lines file; lines torn by a crash are left out."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


class RunFolder:
    """What is known of a run, read from its folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = path.name

    def spec(self) -> dict[str, Any]:
        """The resolved spec as written (bench.spec.from_dict makes a RunSpec of it)."""
        spec: dict[str, Any] = read_json(self.path / "spec.json")["spec"]
        return spec

    def status(self) -> Status:
        """Planned, if nothing is recorded yet."""
        path = self.path / "status.json"
        if not path.is_file():
            return Status()
        content = read_json(path)
        return Status(**{key: content[key] for key in ("state", "phase", "message", "trace")})

    def set_status(self, status: Status, check: Callable[[], None] = lambda: None) -> None:
        write_json(self.path / "status.json", asdict(status), check)

    def metrics(self) -> list[dict[str, Any]]:
        """One record a step, in order; of steps run again after a crash the last record counts."""
        steps = {record["step"]: record for record in read_lines(self.path / "metrics.jsonl")}
        return [steps[step] for step in sorted(steps)]

    def scenes(self) -> dict[str, Any] | None:
        """{"training", "validation", "evaluation": scenes of each, "broken": those skipped}, since training began."""
        path = self.path / SCENES
        return read_json(path) if path.is_file() else None

    def training(self) -> dict[str, Any] | None:
        """train.json: present once training is finished."""
        path = self.path / "train.json"
        return read_json(path) if path.is_file() else None

    def evaluations(self) -> dict[str, dict[str, Any]]:
        """{"<protocol>@<version>": result}."""
        return {path.stem: read_json(path) for path in sorted((self.path / "evals").glob("*.json"))}

    def profiles(self) -> dict[str, dict[str, Any]]:
        """{"<device>-<world>": profile}."""
        return {path.stem: read_json(path) for path in sorted((self.path / "profiles").glob("*.json"))}

    def provenance(self) -> dict[str, dict[str, Any]]:
        """{"train", "evals/KEY", "profiles/KEY", "traces/KEY", "overfit": which code and machine produced it}.

        Folders from before stages carried their own have one environment.json for all, of the last stage.
        """
        path = self.path / "environment.json"
        shared = read_json(path) if path.is_file() else {}
        stages = {"train": self.training(), "overfit": self.overfit()}
        for kind, results in (
            ("evals", self.evaluations()), ("profiles", self.profiles()), ("traces", self.traces())
        ):  # fmt: skip
            stages |= {f"{kind}/{key}": result for key, result in results.items()}
        return {
            stage: result.get("provenance") or shared | {key: result[key] for key in ("commit",) if key in result}
            for stage, result in stages.items()
            if result is not None
        }

    def traces(self) -> dict[str, dict[str, Any]]:
        """{"<device>-<world>": time by part}, of runs that were traced."""
        return {path.stem: read_json(path) for path in sorted((self.path / "traces").glob("*.json"))}

    def overfit(self) -> dict[str, Any] | None:
        """The verdict of a run that was to memorise its scenes: {"passed", "text"}."""
        path = self.path / "overfit.json"
        return read_json(path) if path.is_file() else None

    def best(self) -> dict[str, Any] | None:
        """Of a run that keeps its best weights, while it trains: {"step", "protocol", "validation_psnr"}."""
        path = self.path / BEST / BEST_STATE
        return read_json(path) if path.is_file() else None

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted((self.path / "checkpoints").glob("step_*"))


def runs_folder(results: Path) -> Path:
    return results / "runs"


def run_folder(results: Path, run_id: str) -> RunFolder:
    return RunFolder(runs_folder(results) / run_id)


def write_sweep(
    folder: Path, sweep: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], environment: Mapping[str, Any]
) -> None:
    """sweep.json, runs.jsonl (one line a run) and environment.json."""
    text = "".join(json.dumps(run, ensure_ascii=False) + "\n" for run in runs)
    commit(folder / "runs.jsonl", lambda path: _write_text(path, text))
    write_json(folder / "environment.json", environment)
    write_json(folder / "sweep.json", sweep)
