"""Checkpoints: safetensors and JSON, no pickle, free of ranks, committed as one directory."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.common.errors import UserError
from bench.common.json_files import read_json, write_json
from bench.runs.folder import RunFolder
from bench.runs.writer import Writer
from bench.training.sharding import gathered, load_whole, part_of
from models.ead import EAD
from models.published import WeightsError

FOLDER = "checkpoints"
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"

log = logging.getLogger(__name__)


def save(
    writer: Writer | None, step: int, model: EAD, optimizer: torch.optim.Optimizer, warnings: Mapping[str, str]
) -> None:
    """Save the state after `step` steps; older checkpoints are removed once this one is complete.

    Every rank calls it, since weights may be sharded; the first has the `writer`.

    There is no random state to save: batches depend on (seed, step, sample) alone, and nothing else is random.
    """
    weights = gathered(model.state_dict(), keep=writer is not None)
    moments = gathered(_optimizer_tensors(model, optimizer), keep=writer is not None)
    if writer is None:
        return
    state = {"step": step, "threads": torch.get_num_threads(), "warnings": dict(warnings)}

    def write(folder: Path) -> None:
        folder.mkdir()
        save_file(weights, folder / MODEL)
        save_file(moments, folder / OPTIMIZER)
        write_json(folder / STATE, state)

    writer.commit(f"{FOLDER}/step_{step:08d}", write)
    for old in RunFolder(writer.folder).checkpoints()[:-1]:
        writer.remove(f"{FOLDER}/{old.name}")


def restore(folder: Path, model: EAD, optimizer: torch.optim.Optimizer) -> tuple[int, dict[str, str]]:
    """Load model and optimizer from the newest checkpoint. Returns its step (0 without one) and the warnings so far.

    Raises UserError for a checkpoint that is damaged or of another model.
    """
    checkpoints = RunFolder(folder).checkpoints()
    if not checkpoints:
        return 0, {}
    newest = checkpoints[-1]
    try:
        load_whole(model, load_file(newest / MODEL), source=str(newest / MODEL))
        former = newest / "optimiser.safetensors"  # of checkpoints before the file was renamed
        _fill_optimizer(model, optimizer, load_file(former if former.is_file() else newest / OPTIMIZER))
        state = read_json(newest / STATE)
    except (WeightsError, SafetensorError, OSError, KeyError, ValueError) as error:
        raise UserError(f"{newest} cannot be read ({error}); delete it to restart this run from step 0") from error
    if state["threads"] != (threads := torch.get_num_threads()):
        log.warning(
            "resumed with %d threads, started with %d: results are no longer bitwise reproducible",
            threads,
            state["threads"],
        )
    return state["step"], state["warnings"]


def remove(writer: Writer) -> None:
    """Delete all of a run's checkpoints, complete or not."""
    writer.remove(FOLDER)


def _optimizer_tensors(model: EAD, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """{"<parameter>/<state>": tensor}, by the parameters' names."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _fill_optimizer(model: EAD, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        name, _, state = key.rpartition("/")
        parameter = parameters[name]
        moment = value.to(parameter.device)
        optimizer.state[parameter][state] = part_of(moment, parameter) if state != "step" else moment
