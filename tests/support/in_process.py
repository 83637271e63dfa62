"""The runs of a spec, trained and evaluated by a worker in this process: seconds less than `bench.run` for each."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

from bench import config
from bench.common.json_files import write_json
from bench.execution import direct
from bench.execution.launcher import prepare_run_folder
from bench.execution.session import task_of
from bench.runs.folder import RunFolder
from support.sweeps import profile

Train = Callable[[str], RunFolder]


def trained_once(spec: Path, results: Path) -> Train:
    """A function that trains the run of a label once, and asserts that nothing failed."""
    runs = {run.label: run for run in config.load(spec).runs}

    @cache
    def train(label: str) -> RunFolder:
        task = task_of(runs[label], results)
        prepare_run_folder(task)
        write_json(task.folder.path / "profiles" / "cpu-1.json", profile(1.0))  # nothing is timed under shape checks
        assert direct.main([str(task.folder.path), "--threads", "1"]) == 0, task.folder.status().message
        return task.folder

    return train
