"""What no single field can know: rules across fields and parts, each a Problem whose field is dotted from the root."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from operator import attrgetter, itemgetter

from bench import protocols
from bench.config.read import did_you_mean
from bench.config.schema import InitSpec, PartsSpec, RunSpec, Shipped, WeightsFile, is_run_path
from bench.losses import LossSpec
from models import pretrained
from models.parts import PartSpec, Problem
from models.published import LAYOUTS

AT_LEAST = {  # whole numbers that count something
    "train.steps": 0, "train.batch": 1, "train.micro_batch": 1, "train.checkpoint_every": 1, "train.warmup_steps": 0,
    "train.validations": 1, "train.views_at_once": 1, "train.head_views": 1,
    "views.inputs": 1, "views.targets": 1, "views.training_targets": 1,
    "views.overfit": 0, "evaluation.scenes": 1, "model.image_size": 1, "seed": 0,
}  # fmt: skip
MOST_INPUTS = 16  # views that a model is evaluated with
LARGEST_SEED = 2**32 - 1  # what NumPy's and torch's generators take, with room for one stream a part
TRAINED_PARTS = tuple(field.name for field in fields(PartsSpec))
INIT_PARTS = tuple(field.name for field in fields(InitSpec) if field.name != "model")
POSITIVE = ("train.learning_rate", "train.gradient_clip")
NOT_NEGATIVE = ("train.final_learning_rate", "train.weight_decay")
AGREES_WITH = {  # where to look for the cause when the field itself was not given
    "train.warmup_steps": ("train.steps",),
    "train.micro_batch": ("train.batch",),
    "model.encoder.patch": ("model.image_size",),
    "model.aggregator.heads": ("model.encoder.width", "model.encoder"),
    "model.aggregator.table_size": ("model.encoder.patch",),
    "model.aggregator.views": ("views.inputs",),
    "model.head.taps": ("model.aggregator.blocks",),
}


def problems(spec: RunSpec) -> Iterator[Problem]:
    """Everything wrong with a resolved spec."""
    for key, least in AT_LEAST.items():
        value = attrgetter(key)(spec)
        if isinstance(value, int) and value < least:
            yield Problem(key, f"{value} is too small: at least {least}")
    if spec.seed > LARGEST_SEED:
        yield Problem("seed", f"{spec.seed} is too large: at most {LARGEST_SEED}")
    for key in POSITIVE:
        if not attrgetter(key)(spec) > 0:
            yield Problem(key, "must be greater than 0")
    for key in NOT_NEGATIVE:
        if attrgetter(key)(spec) < 0:
            yield Problem(key, "must not be negative")
    weights = {name: getattr(loss, "weight", 0.0) for name, loss in spec.losses.items()}
    for name, weight in weights.items():
        if weight < 0:
            yield Problem(f"losses.{name}.weight", "must not be negative")
    for name, loss in _active_losses(spec).items():
        for problem in loss.problems(spec.model):
            key = f"losses.{name}.{problem.field}" if problem.field else f"losses.{name}"
            yield Problem(key, problem.message if problem.field else f"{name} {problem.message}")
    if not any(weight > 0 for weight in weights.values()):
        yield Problem("losses", "no term has a weight above 0: nothing would be learned")
    elif not any(loss.weight_at(1) for loss in _active_losses(spec).values()):
        yield Problem("losses", "in some steps no term is computed: give one a weight in every step")
    known = protocols.names()
    if not spec.evaluation.protocols:
        yield Problem("evaluation.protocols", f"name at least one: {', '.join(known)}")
    for name in spec.evaluation.protocols:
        if name not in known:
            hint = did_you_mean(name, known)
            yield Problem("evaluation.protocols", f"no protocol {name!r}{hint}; it may be {', '.join(known)}")
    yield from _train(spec)
    yield from _data(spec)
    yield from _init(spec)
    yield from (Problem(f"views.choice.{p.field}", p.message) for p in spec.views.choice.problems(spec.views.inputs))
    yield from (Problem(f"model.{p.field}", p.message) for p in spec.model.problems(spec.views.inputs))
    yield from _evaluation_inputs(spec)


def _evaluation_inputs(spec: RunSpec) -> Iterator[Problem]:
    """Other numbers of inputs than the model is trained with: what the model, the view choice and the data allow."""
    field, at_training = "views.evaluation_inputs", {p.message for p in spec.model.problems(spec.views.inputs)}
    available = spec.data.distinct_views() if hasattr(spec.data, "distinct_views") else None
    for count in spec.views.other_inputs:
        if not 1 <= count <= MOST_INPUTS:
            yield Problem(field, f"{count}: from 1 to {MOST_INPUTS}")
            continue
        if spec.model.inputs not in (None, count):
            views = "1 input view" if spec.model.inputs == 1 else f"{spec.model.inputs} input views"
            yield Problem(field, f"{count} input views cannot be evaluated: this model takes {views}")
            continue
        for problem in (*spec.model.problems(count), *spec.views.choice.problems(count)):
            if problem.message not in at_training:
                yield Problem(field, f"{count} input views cannot be evaluated: {problem.message}")
        if available is not None and count + spec.views.targets > available:
            yield Problem(field, f"{count} inputs and {spec.views.targets} targets, of {available} views of a scene")


def _active_losses(spec: RunSpec) -> dict[str, LossSpec]:
    return {name: loss for name, loss in spec.losses.items() if isinstance(loss, LossSpec) and loss.weight > 0}


def _train(spec: RunSpec) -> Iterator[Problem]:
    train = spec.train
    for part in TRAINED_PARTS:
        if not getattr(train.parts, part).rate > 0:
            yield Problem(f"train.parts.{part}.rate", "must be greater than 0; to train without this part, freeze it")
    if train.steps > 0 and all(getattr(train.parts, part).freeze for part in TRAINED_PARTS):
        yield Problem("train.parts", "all parts are frozen: nothing would be trained")
    if train.warmup_steps >= train.steps > 0:
        yield Problem(
            "train.warmup_steps",
            f"{train.warmup_steps} is not below the {train.steps} steps of training: set train.warmup_steps as well",
        )
    if not all(0 <= beta < 1 for beta in train.betas):
        yield Problem("train.betas", "each lies in [0, 1)")
    if train.ema is not None and not 0 < train.ema < 1:
        yield Problem("train.ema", f"{train.ema:g} is no decay: between 0 and 1, both excluded, or null for no average")
    if train.micro_batch and train.micro_batch > 0 and train.batch % train.micro_batch:
        yield Problem("train.micro_batch", f"{train.micro_batch} does not divide the batch of {train.batch}")
    if train.shard and train.compile:
        yield Problem("train.shard", "is not made for train.compile: choose one of them")
    if train.shard and train.keep == "best":
        yield Problem("train.shard", "keep: best validates in one process, which needs whole weights: use keep: last")
    if train.head_views and spec.model.head.mixes_views:
        text = f"head {spec.model.head.name} mixes views (its `mixes_views`), so it needs all of them at once"
        yield Problem("train.head_views", f"{text}: set this to null")
    if train.views_at_once:
        for name, loss in _active_losses(spec).items():
            if "rendering" in loss.needs and not loss.over_views:
                text = f"losses.{name} is not known to be a mean over target views, so it needs all of them at once"
                remedy = f"set this to null, or `over_views = True` in the Spec of bench/losses/{name}.py if it is one"
                yield Problem("train.views_at_once", f"{text}: {remedy}")
    if not 0 <= train.geometry_first < 1:
        yield Problem("train.geometry_first", "is a share of the steps, from 0 to below 1")
    elif train.geometry_first > 0 and all("rendering" in loss.needs for loss in _active_losses(spec).values()):
        yield Problem(
            "train.geometry_first",
            "the first steps train on L_3D alone: give losses.points a weight above 0, or set this to 0",
        )


def _data(spec: RunSpec) -> Iterator[Problem]:
    """Counts of the data source (`at_least` of the specs of bench/data/sources/), and more views than a scene has
    where the source fixes how many; of other sources that is known once they are read."""
    for name, least in getattr(spec.data, "at_least", {}).items():
        if (value := getattr(spec.data, name)) < least:
            yield Problem(f"data.{name}", f"{value} is too small: at least {least}")
    if spec.train.steps > 0 and getattr(spec.data, "training_scenes", 1) == 0:
        yield Problem("data.training_scenes", f"there is nothing to train {spec.train.steps} steps on: at least 1")
    views = spec.views
    name, targets = max(
        ("targets", views.targets), ("training_targets", views.training_targets or 0), key=itemgetter(1)
    )
    needed = views.inputs + targets
    available = spec.data.distinct_views() if hasattr(spec.data, "distinct_views") else None
    if available is not None and needed > available:
        where = name if targets >= views.inputs else "inputs"
        yield Problem(f"views.{where}", f"inputs and targets are {needed} views, of {available} that a scene has")


def _init(spec: RunSpec) -> Iterator[Problem]:
    """The whole model or its parts; with nothing to train all of it; which checkpoints are known, and what they fix."""
    initialized = [part for part in INIT_PARTS if getattr(spec.init, part) != "scratch"]
    if spec.init.model != "scratch":
        for part in initialized:
            yield Problem(f"init.{part}", f"init.model gives the {part} as well: leave one out, init.{part}: scratch")
    elif spec.train.steps == 0 and (random := [part for part in INIT_PARTS if part not in initialized]):
        yield Problem(
            "train.steps",
            f"nothing is trained and nothing gives the {' and the '.join(random)}: give init.model "
            "({weights: FILE, sha256: …} or {run: NAME}), or a number of steps",
        )
    if spec.train.steps == 0 and spec.views.overfit:
        yield Problem("views.overfit", "nothing is trained (train.steps is 0), so nothing can be memorized")
    for part in (*initialized, *(["model"] if spec.init.model != "scratch" else [])):
        init = getattr(spec.init, part)
        if isinstance(init, WeightsFile) and init.sha256 and not re.fullmatch("[0-9a-fA-F]{64}", init.sha256):
            text = f"{init.sha256!r} is no SHA-256: 64 hexadecimal digits, as `sha256sum FILE` prints them"
            yield Problem(f"init.{part}.sha256", text)
    for part in initialized:
        yield from _checkpoint(part, getattr(spec.model, part), getattr(spec.init, part))


def _checkpoint(part: str, chosen: PartSpec, init: object) -> Iterator[Problem]:
    """Of a published one or one that ships; a run's own may be of any part, and is compared when the run starts."""
    if isinstance(init, Shipped):
        yield from _shipped(part, chosen, init.shipped)
    if isinstance(init, WeightsFile) and not is_run_path(init.weights):
        if (part, chosen.name) not in LAYOUTS:
            known = ", ".join(f"{part} {name}" for part, name in LAYOUTS)
            yield Problem(
                f"init.{part}",
                f"no checkpoint of {part} {chosen.name} is known, only of {known}: use scratch, or a run's folder",
            )
        fixed: dict[str, object] = getattr(chosen, "weights_fix", {})
        for name, published in fixed.items():
            if (value := getattr(chosen, name)) != published:
                yield Problem(
                    f"model.{part}.{name}",
                    f"{value}, but init.{part} loads weights, which fix it at {published}: "
                    f"use {published}, or init.{part}: scratch",
                )


def _shipped(part: str, chosen: PartSpec, name: str) -> Iterator[Problem]:
    known = pretrained.names()
    if name not in known:
        text = f"no weights {name!r} ship{did_you_mean(name, known)}; there are {', '.join(known)}"
        yield Problem(f"init.{part}.shipped", text)
        return
    card = pretrained.card(name)
    if card.part != part:
        yield Problem(f"init.{part}.shipped", f"{name} is for the {card.part}")
        return
    values = json.loads(json.dumps(chosen.to_dict()))  # lists for tuples, as in the card
    if differing := [field for field in values if values[field] != card.spec.get(field)]:
        theirs = ", ".join(f"{field} {card.spec.get(field)}" for field in differing)
        ours = ", ".join(f"{field} {values[field]}" for field in differing)
        yield Problem(
            f"init.{part}.shipped",
            f"{name} is for {part} {card.spec['name']} with {theirs}; here it has {ours}: use init.{part}: scratch",
        )
