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
from typing import IO, Any, Protocol

from bench.atomic import atomic_write, atomic_write_text
from bench.errors import BadInput
from bench.states import State

SCHEMA_VERSION = 1
BEST, BEST_STATE = "best", "state.json"
SCENES = "scenes.json"


@dataclass(frozen=True)
class Status:
    """How a run stands: its state, the stage it was in, and for a bad end why and where its log is."""

    state: State = State.PLANNED
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
        atomic_write(self.folder / name, write, self.check)

    def append(self, name: str, record: Mapping[str, object]) -> None:
        self.check()
        append_line(self.folder / name, record)

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


def append_line(path: Path, record: Mapping[str, object]) -> None:
    """Add a JSON line to a file; after a line that a crash left without its end, a new one begins."""
    with path.open("ab+") as file:
        before = b"\n" if _torn(file) else b""
        file.write(before + json.dumps(record).encode() + b"\n")


def _torn(file: IO[bytes]) -> bool:
    """Whether a crash left the last line without its end."""
    if file.seek(0, os.SEEK_END) == 0:
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


def write_json(path: Path, content: Mapping[str, Any], check: Callable[[], None] = lambda: None) -> None:
    """Atomic; stamped with the schema version."""
    text = json.dumps({"schema_version": SCHEMA_VERSION, **content}, indent=1, ensure_ascii=False) + "\n"
    atomic_write_text(path, text, check)


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
        if content["state"] not in list(State):
            raise BadInput(f"{path}: unknown state {content['state']!r}; it may be {', '.join(State)}")
        return Status(State(content["state"]), *(content[key] for key in ("phase", "message", "trace")))

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
    atomic_write_text(folder / "runs.jsonl", text)
    write_json(folder / "environment.json", environment)
    write_json(folder / "sweep.json", sweep)
