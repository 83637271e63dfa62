"""Run folders and sweep folders: the one module that reads and writes them. Plain files; no torch.

results/runs/<id>/        spec.json scenes.json status.json lease/ log.txt metrics.jsonl checkpoints/ best/ model.json
                          weights.safetensors train.json evals/ samples/ profiles/ traces/ overfit.json
results/archive/<id>.<n>/ run folders that `--force` has archived
results/<sweep>/          sweep.json runs.jsonl environment.json tables/ figures/
                          and of a search search.json trials.jsonl front/ optuna_journal.log
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.common.errors import UserError
from bench.common.files import atomic_write_text
from bench.common.json_files import read_json, read_lines, write_json
from bench.runs.states import State

BEST, BEST_STATE = "best", "state.json"
SCENES = "scenes.json"


@dataclass(frozen=True)
class Status:
    """A run's state, the stage it was in, and for a failure its reason."""

    state: State = State.PLANNED
    phase: str = ""  # train, evaluate, profile
    message: str = ""
    trace: str = ""  # the last lines of a traceback


class RunFolder:
    """Reads the records of a run's folder. Files of which the docstring says nothing else may be missing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = path.name

    def spec(self) -> dict[str, Any]:
        """The resolved spec (bench.config.from_dict returns the RunSpec). Raises UserError if it is missing."""
        path = self.path / "spec.json"
        try:
            spec: dict[str, Any] = read_json(path)["spec"]
        except FileNotFoundError as error:
            raise UserError(f"{path} is missing: re-run the sweep's command (bench.run SPEC) to restore it") from error
        return spec

    def status(self) -> Status:
        """Planned, if nothing is recorded yet."""
        path = self.path / "status.json"
        if not path.is_file():
            return Status()
        content = read_json(path)
        if content["state"] not in list(State):
            raise UserError(f"{path}: unknown state {content['state']!r}; it may be {', '.join(State)}")
        return Status(State(content["state"]), *(content[key] for key in ("phase", "message", "trace")))

    def set_status(self, status: Status, check: Callable[[], None] = lambda: None) -> None:
        write_json(self.path / "status.json", asdict(status), check)

    def metrics(self) -> list[dict[str, Any]]:
        """One record per step, in order; of a step that was repeated after a crash, the last one."""
        steps = {record["step"]: record for record in read_lines(self.path / "metrics.jsonl")}
        return [steps[step] for step in sorted(steps)]

    def scenes(self) -> dict[str, Any] | None:
        """{"training", "validation", "evaluation": scene ids, "broken": skipped scenes}; from the start of training."""
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
        """Result of `--overfit`: {"passed", "text"}."""
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
    """Write sweep.json, runs.jsonl (one line per run) and environment.json."""
    text = "".join(json.dumps(run, ensure_ascii=False) + "\n" for run in runs)
    atomic_write_text(folder / "runs.jsonl", text)
    write_json(folder / "environment.json", environment)
    write_json(folder / "sweep.json", sweep)
