"""The training stage: from a spec to `train.json` and `weights.safetensors`, once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from bench.common.errors import UserError
from bench.common.json_files import read_lines, write_json
from bench.config.source_hash import source_hashes
from bench.evaluation import scene_record
from bench.runs.folder import BEST, RunFolder
from bench.runs.writer import Writer
from bench.runtime import numerics, provenance
from bench.runtime.distributed import SINGLE_PROCESS, DistributedContext
from bench.training import checkpoint, initialization
from bench.training.loop import SESSIONS, Stopped, run_steps
from models import weights
from models.ead import EAD

if TYPE_CHECKING:
    from bench.config.schema import RunSpec
    from bench.data.scene import DataSource

__all__ = ["Stopped", "train"]


def train(
    spec: RunSpec,
    writer: Writer,
    *,
    device: torch.device,
    source: DataSource,
    ranks: DistributedContext = SINGLE_PROCESS,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train to the end, once; without steps the given weights are the model's. Raises NonFinite, Stopped, UserError."""
    if RunFolder(writer.folder).training() is not None:
        remove_training_state(writer)
    elif spec.train.steps:
        code = source_hashes(spec)
        model, summary = run_steps(spec, writer, device=device, source=source, ranks=ranks, stop=stop)
        if ranks.is_first:
            finish(spec, writer, model, {**summary, "code": code})
    elif ranks.is_first:
        numerics.configure(device, spec.train.matmul_precision, spec.seed)
        use_given_weights(spec, writer, source, device)


def use_given_weights(spec: RunSpec, writer: Writer, source: DataSource, device: torch.device) -> None:
    """Without a step of training, the model that `init` describes is the run's. Raises UserError.

    A model that a run has trained is not evaluated on the scenes that it was trained on.
    """
    evaluation = scene_record.record_or_verify_scenes(spec, source, writer)["evaluation"]
    if common := initialization.trained_scenes(spec, writer.folder.parent) & set(evaluation):
        raise UserError(
            f"data: the given weights were trained on {len(common)} of these scenes, {min(common)} among them"
        )
    content = {
        "steps": 0,
        "warnings": [],
        "code": source_hashes(spec),
        "provenance": provenance.of_stage(spec.model.precision, device),
    }
    _commit(writer, initialization.build(spec, writer.folder.parent), content)


def finish(spec: RunSpec, writer: Writer, model: EAD, summary: Mapping[str, Any]) -> None:
    """Write the summary of a complete training and its weights; checkpoints and optimizer state are removed."""
    folder = RunFolder(writer.folder)
    best, steps = folder.best(), folder.metrics()
    if best:
        weights.load_strict(model, load_file(folder.path / BEST / weights.WEIGHTS_FILE), source=BEST)
    step_ms, wait_ms = (sum(record[key] for record in steps) for key in ("step_time_ms", "data_wait_ms"))
    content = {
        "training_s": step_ms / 1000,
        "data_wait_share": wait_ms / step_ms if step_ms else None,
        "kept": best or {"step": summary["steps"]},
        "final": {key: value for key, value in steps[-1].items() if key.startswith("loss")},
        "threads": torch.get_num_threads(),
        **summary,
        "provenance": summary["provenance"] | {"sessions": sessions(writer.folder)},
    }
    _commit(writer, model, content)
    remove_training_state(writer)


def sessions(folder: Path) -> list[dict[str, Any]]:
    """The sessions that contributed to the result, in order, by the fields that differ between them. A session that got
    no further than the checkpoint from which a later one started contributed nothing."""
    records = read_lines(folder / SESSIONS)
    keys = ("from_step", "time", "commit", "local_changes", "host", "device_name")
    return [
        {key: record[key] for key in keys}
        for i, record in enumerate(records)
        if all(later["from_step"] > record["from_step"] for later in records[i + 1 :])
    ]


def remove_training_state(writer: Writer) -> None:
    """Delete the files that only an unfinished training needs."""
    checkpoint.remove(writer)
    writer.remove(SESSIONS)
    writer.remove(BEST)


def _commit(writer: Writer, model: EAD, content: Mapping[str, Any]) -> None:
    """The weights, then train.json, which marks the stage as complete."""
    writer.commit(weights.SPEC_FILE, lambda path: weights.save_spec(model, path))
    writer.commit(weights.WEIGHTS_FILE, lambda path: weights.save_weights(model, path))
    writer.commit("train.json", lambda path: write_json(path, content))
