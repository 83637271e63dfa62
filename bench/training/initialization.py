"""A run's model at step 0: each part from scratch, or it or the whole model from a file or another run."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from bench.common.compat import shapes_only
from bench.common.errors import UserError
from bench.config.schema import FromRun, Shipped, WeightsFile
from bench.config.user_files import verify_files, weight_file, weight_files
from bench.runs.folder import RunFolder
from bench.runtime.shapes import build_without_values
from models import pretrained, published, transfer, weights
from models.ead import EAD, EADSpec
from models.published import Layout, State, WeightsError
from models.weights import SPEC_FILE, WEIGHTS_FILE

if TYPE_CHECKING:
    from bench.config.schema import RunSpec

log = logging.getLogger(__name__)


def build(spec: RunSpec, runs: Path | None) -> EAD:
    """The model, drawn from the seed, then filled as `spec.init` says; `runs` holds the other runs.

    Raises UserError when a source is missing or does not fit: never a silent random initialization. Under
    FakeTensorMode it has shapes and no values.
    """
    if shapes_only():
        return build_without_values(spec.model.build)
    verify_files(spec)
    model = spec.model.build(spec.seed)
    for part, init in weight_sources(spec):
        try:
            _fill(_module(model, part), spec, part, init, runs)
        except WeightsError as error:
            raise UserError(f"init.{part}: {error}") from error
    return model


def find_problems(spec: RunSpec) -> list[str]:
    """Why `build` would refuse this run's files: absent, not the declared ones, or of another model."""
    if not (files := weight_files(spec)):
        return []
    try:
        verify_files(spec)
    except UserError as error:
        return [str(error)]
    with torch.device("meta"):
        model = spec.model.build()
    problems = []
    for part, init in files.items():
        try:
            state, layout = _open(spec, part, init)
            if layout is None:
                weights.validate_state_dict(_module(model, part), state, init.weights)
            else:
                published.validate_layout(_module(model, part), state, layout, init.weights)
        except WeightsError as error:
            problems.append(f"init.{part}: {error}")
    return problems


def weight_sources(spec: RunSpec) -> Iterator[tuple[str, WeightsFile | FromRun | Shipped]]:
    """(part or "model", its source) of the parts that are not initialized from scratch."""
    for field in fields(spec.init):
        if (init := getattr(spec.init, field.name)) != "scratch":
            yield field.name, init


def trained_scenes(spec: RunSpec, runs: Path | None) -> set[str]:
    """The training scenes of the runs that this one starts from, as far as their folders record them."""
    scenes: set[str] = set()
    for _, init in weight_sources(spec):
        if isinstance(init, Shipped):  # procedural scenes of their own (its card)
            continue
        folder = weight_file(init).parent if isinstance(init, WeightsFile) else (runs or Path()) / init.id
        scenes |= set((RunFolder(folder).scenes() or {}).get("training", ()))
    return scenes


def _fill(
    module: nn.Module, spec: RunSpec, part: str, init: WeightsFile | FromRun | Shipped, runs: Path | None
) -> None:
    if isinstance(init, Shipped):
        weights.load_strict(module, pretrained.read(init.shipped), source=f"shipped {init.shipped}")
        return
    if isinstance(init, FromRun):
        for name, inner in module.parts().items() if isinstance(module, EAD) else [(part, module)]:
            tensors, source = of_run(name, init.id, runs), f"run {init.run} ({init.id})"
            exact = spec.train.steps == 0
            _warn(part, source, transfer.load(inner, name, getattr(spec.model, name), tensors, source, exact=exact))
        return
    state, layout = _open(spec, part, init)
    if layout is None:
        weights.load_strict(module, state, source=init.weights)
    else:
        _warn(part, layout.name, published.load_layout(module, state, layout, source=init.weights))


def _warn(part: str, source: str, skipped: Sequence[str]) -> None:
    if skipped:
        log.warning("init.%s: not of %s, initialized from the seed: %s", part, source, ", ".join(skipped))


def _module(model: EAD, part: str) -> nn.Module:
    return model if part == "model" else model.parts()[part]


def of_run(part: str, run_id: str, runs: Path | None) -> dict[str, torch.Tensor]:
    """One part's tensors of a finished run, or all for "model". Raises UserError, WeightsError."""
    folder = (runs or Path()) / run_id
    if RunFolder(folder).training() is None:
        raise UserError(f"init.{part}: parent run {run_id} has not finished training")
    return weights.part_of(weights.read_own(folder / WEIGHTS_FILE), part)


def _open(spec: RunSpec, part: str, init: WeightsFile) -> tuple[State, Layout | None]:
    """A file's tensors and their layout; None and the part's alone for a run's own. Raises WeightsError."""
    path = weight_file(init)
    checkpoint = weights.read_checkpoint(path)
    state = checkpoint.state
    if checkpoint.wrapping:
        log.info("init.%s: %s is read without what wraps its tensors: %s", part, path, ", ".join(checkpoint.wrapping))
    weights.require_finite(state, str(path))
    if weights.is_ours(state):
        if different := _overrides(spec, part, path.parent):
            raise WeightsError(f"checkpoint architecture of {path} differs; to use it set: {' '.join(different)}")
        return weights.part_of(state, part), None
    if part == "model":
        return state, _whole_model(spec, state, path)
    choice = getattr(spec.model, part).name
    if (part, choice) not in published.LAYOUTS:
        raise WeightsError(f"{path} is no checkpoint of a run, and no published layout of {part} {choice} is known")
    return state, published.LAYOUTS[part, choice]()


def _whole_model(spec: RunSpec, state: State, path: Path) -> Layout:
    """The layout of a published model, whose shapes do not determine all that is checked. Raises WeightsError."""
    layout = published.whole_model(state)
    if layout is None:
        raise WeightsError(
            f"{path} holds neither a model of this harness nor a published one that it knows (its first key is "
            f"{next(iter(state), 'missing')}); a checkpoint of one part belongs to that part, say init.encoder"
        )
    wrong = published.differences(spec.model, layout)
    if spec.model.output.kind != "pixels" and spec.views.frame != "freesplatter":
        wrong.append(f"views.frame is {spec.views.frame}, {layout.name}'s output lies in freesplatter")
    if wrong:
        raise WeightsError(f"{path} is {layout.name}'s: {'; '.join(wrong)}")
    return layout


def _overrides(spec: RunSpec, part: str, folder: Path) -> list[str]:
    """The command-line settings under which a run's folder and this spec have the same part; none if they have.

    For the whole model they name the run's frame, too, and with any difference its image size.
    """
    if not (folder / SPEC_FILE).is_file():
        return []
    theirs, ours = weights.load_spec(folder).to_dict(), spec.model.to_dict()
    names = ("encoder", "aggregator", "head", "output") if part == "model" else (part,)
    settings = [word for name in names for word in _different(spec.model, name, theirs[name], ours[name])]
    if part == "model" and (folder / "spec.json").is_file():
        frame = RunFolder(folder).spec()["views"]["frame"]
        settings += [f"views.frame={frame}"] if frame != spec.views.frame else []
    if settings and part == "model" and theirs["image_size"] != ours["image_size"]:
        settings.append(f"model.image_size={theirs['image_size']}")
    return settings


def _different(model: EADSpec, name: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[str]:
    """All of a part's settings if it is another one, else those that differ and do not decide initial values alone."""
    key, replaced = f"model.{name}", {f.name for f in fields(getattr(model, name)) if f.metadata.get("replaced")}
    other = theirs["name"] != ours["name"]
    if other:
        yield f"{key}={theirs['name']}"
    for field, value in theirs.items():
        if field != "name" and (other or value != ours[field]) and field not in replaced:
            text = list(value) if isinstance(value, tuple) else str(value).lower() if isinstance(value, bool) else value
            yield shlex.quote(f"{key}.{field}={text}")
