"""Spec files and base files, read and cut into layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.config import merge
from bench.config.convert import field_types
from bench.config.grid import AXES
from bench.config.merge import SCALES, Layer, State, layer
from bench.config.read import Document, Node, Problems, did_you_mean, read
from bench.config.schema import RunSpec
from bench.config.spec_fields import slot_of, spec_class_of

BASES = Path(__file__).resolve().parents[2] / "ablations" / "base"
SWEEP = (*AXES, "where", "search", "reference")  # what a scale may replace as a whole, grid key by key
KEYS = ("base", "set", *SWEEP, "scales", "include")


@dataclass
class BaseFile:
    """One file of ablations/base/: a model with its training, and what the scales change."""

    where: str
    settings: Layer
    scales: dict[str, Layer]


@dataclass
class SpecFile:
    """One spec file; what belongs to the sweep stays nodes until the scale is known."""

    document: Document
    base: Node | None
    settings: Layer
    scales: dict[str, Layer]
    sweep: dict[str, Node]
    sweep_at: dict[str, dict[str, Node]] = field(default_factory=dict)
    include: list[Node] = field(default_factory=list)
    merged_losses: Node | None = None  # `losses: {…}` under `set`, which changes terms of the base and drops none
    own_base: BaseFile | None = None  # of a base that is run as it is


def base_files(spec_folder: Path) -> dict[str, Path]:
    """Name → file of every base that a spec in this folder may name: those in the folder `base` beside the spec (or in
    the spec's own, if it is called so), then those of ablations/base/."""
    own_folders = [spec_folder / "base", *([spec_folder] if spec_folder.name == "base" else [])]
    return {path.stem: path for folder in (BASES, *reversed(own_folders)) for path in sorted(folder.glob("*.yaml"))}


def read_base(name: Node, spec: SpecFile, problems: Problems) -> BaseFile | None:
    """The base that `name` names; of a base that is run as it is, that file itself."""
    if spec.own_base:
        return spec.own_base
    files = base_files(spec.document.path.parent)
    if not isinstance(name.value, str):
        problems.add(name.where, "base is the name of one base, such as `base: freesplatter`; "
                     "several are swept by `runs: [{base: …}, {base: …}]`")  # fmt: skip
        return None
    if name.value not in files:
        hint = did_you_mean(name.value, list(files))
        problems.add(name.where, f"no base {name.value!r}{hint}; ablations/base/ has {', '.join(sorted(files))}")
        return None
    return _base_of(read(files[name.value], problems), problems)


def _base_of(document: Document, problems: Problems) -> BaseFile:
    allowed = (*field_types(RunSpec), "scales")
    root = _known(document, allowed, "a base holds settings and `scales` only", problems)
    scales = {key: layer(value, problems) for key, value in _scales(root.pop("scales", None), problems).items()}
    return BaseFile(f"{document.where}:1", layer(root, problems), scales)


def read_spec(path: Path, problems: Problems) -> SpecFile:
    """A question's file. A base, which is a file of settings that name a model, may be run as it is, too."""
    document = read(path, problems)
    settings = document.root.value
    sections = [key for key in settings if key.split(".")[0] in field_types(RunSpec)]
    if any(key.split(".")[0] == "model" for key in sections) and not settings.keys() & (set(KEYS) - {"scales"}):
        base = Node(path.stem, document.where)
        return SpecFile(document, base, Layer(), {}, {}, own_base=_base_of(document, problems))
    for key in sections:
        where = settings.pop(key).where
        advice = "`seeds: […]` sweeps it" if key == "seed" else f"a spec's own keys: {', '.join(KEYS)}"
        problems.add(where, f"{key} belongs under `set:` ({advice})")
    root = _known(document, KEYS, "", problems)
    scales, sweep_at = {}, {}
    for name, changes in _scales(root.get("scales"), problems).items():
        sweep_at[name] = {key: changes[key] for key in SWEEP if key in changes}
        scales[name] = layer({key: value for key, value in changes.items() if key not in SWEEP}, problems)
    include, own = root.get("include"), _mapping(root.get("set"), "set", problems)
    names = [] if include is None else include.value if isinstance(include.value, list) else [include]
    if include and not all(isinstance(name.value, str) for name in names):
        problems.add(include.where, "include names another spec, or a list of them")
        names = []
    losses = own.get("losses")
    is_merged = losses and isinstance(losses.value, dict) and all(n.value is not None for n in losses.value.values())
    return SpecFile(
        document=document,
        base=root.get("base"),
        settings=layer(own, problems),
        scales=scales,
        sweep={key: root[key] for key in SWEEP if key in root},
        sweep_at=sweep_at,
        include=names,
        merged_losses=losses if is_merged else None,
    )


def initial_state(base: BaseFile, spec: SpecFile, scale: str, problems: Problems) -> State:
    """Everything up to `set`: what all runs of one base start from."""
    state: State = {}
    merge.apply(state, base.settings, None, problems)
    merge.apply_sizes(state, scale, problems)
    for settings in (base.scales.get(scale), spec.scales.get(scale), spec.settings):
        merge.apply(state, settings or Layer(), scale, problems)
    return state


def refuse_scaled(
    swept: Layer, base: BaseFile, spec: SpecFile, scale: str, problems: Problems, example: str | None = None
) -> None:
    """A scale may not touch a field that the spec sweeps, unless the values swept are the scale's own.

    A loss's weight is no size: what the base says of it for the scale yields to a sweep, as its value for `paper` does.
    """
    of_base = base.scales.get(scale, Layer()).places()
    touched = {key: at for key, at in of_base.items() if not key.startswith("losses.")}
    touched |= spec.scales.get(scale, Layer()).places()
    for key, at in swept.places().items():
        if key not in touched or any(at in _places(node) for node in spec.sweep_at.get(scale, {}).values()):
            continue
        section = example.format(key) if example else _swept_section(key, at, spec)
        problems.add(
            at,
            f"{key} is swept here, but the scale {scale} sets it ({touched[key]}): "
            f"give this scale values of its own, `scales: {{{scale}: {{{section}}}}}`",
        )


def refuse_paper_width(state: State, spec: SpecFile, scale: str, problems: Problems) -> None:
    """At a smaller scale, a width that the file gives for all scales and that is the part's at scale paper, or more.

    Given weights fix the width: with these it is meant.
    """
    if any(key.startswith("init.") and setting.value != "scratch" for key, setting in state.items()):
        return
    own = {*spec.scales.get(scale, Layer()).places().values()}
    own.update(at for node in spec.sweep_at.get(scale, {}).values() for at in _places(node))
    for key, (width, at) in state.items():
        choice = slot_of(key)
        if not key.startswith("model.") or key != f"{choice}.width" or not at.startswith(f"{spec.document.where}:"):
            continue
        part = spec_class_of(str(choice), state[str(choice)].value)
        size, default = getattr(part, "sizes", {}).get(scale, {}).get("width"), getattr(part, "width", None)
        if size is None or default is None or at in own or not size < default <= width:
            continue
        remedy = f"give this scale values of its own, `scales: {{{scale}: {{{_swept_section(key, at, spec)}}}}}`"
        if at in spec.settings.places().values():
            remedy = f"move it from `set` to `scales: {{paper: {{{key}: {width}}}}}`"
        problems.add(at, f"{key}: {width} is a width for scale paper, at scale {scale} it is {size}: {remedy}")


def _swept_section(key: str, at: str, spec: SpecFile) -> str:
    """How values of its own for a key that is swept at `at` are written under a scale."""
    axis = next((axis for axis in AXES if axis in spec.sweep and at in _places(spec.sweep[axis])), "grid")
    values = {"runs": "[{{{}: …}}, …]", "zip": "{{{}: […]}}", "grid": "{{{}: […]}}"}.get(axis, "[…]")
    return f"{axis}: {values.format(key)}"


def _places(node: Node) -> Iterator[str]:
    yield node.where
    children = node.value.values() if isinstance(node.value, dict) else node.value
    for child in children if isinstance(node.value, dict | list) else ():
        yield from _places(child)


def _known(document: Document, allowed: tuple[str, ...], rule: str, problems: Problems) -> dict[str, Node]:
    known = dict(document.root.value)
    for key in [key for key in known if key.split(".")[0] not in allowed]:
        hint = rule or f"a spec has {', '.join(KEYS)}"
        problems.add(known.pop(key).where, f"unknown key {key}{did_you_mean(key, allowed)}; {hint}")
    return known


def _mapping(node: Node | None, name: str, problems: Problems) -> Mapping[str, Node]:
    if node is None:
        return {}
    if isinstance(node.value, dict):
        return node.value
    problems.add(node.where, f"{name} is a mapping")
    return {}


def _scales(node: Node | None, problems: Problems) -> dict[str, Mapping[str, Node]]:
    scales = {}
    for name, settings in _mapping(node, "scales", problems).items():
        if name in SCALES:
            scales[name] = _mapping(settings, f"the scale {name}", problems)
        else:
            hint = did_you_mean(name, SCALES)
            problems.add(settings.where, f"no scale {name}{hint}; it may be {', '.join(SCALES)}")
    return scales
