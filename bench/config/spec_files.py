"""Spec files and base files, read and cut into layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.config import merge, spec_fields
from bench.config.grid import AXES
from bench.config.merge import (
    SCALES,
    Layer,
    State,
    layer,
)
from bench.config.read import (
    Document,
    Node,
    Problems,
    did_you_mean,
    read,
)
from bench.config.schema import RunSpec

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

    @property
    def folder(self) -> Path:
        """Where the spec lies; a base that is run as it is counts as lying beside its folder."""
        folder = self.document.path.parent
        return folder.parent if folder.name == "base" else folder


def read_base(name: Node, beside: Path, problems: Problems) -> BaseFile | None:
    """The base that `name` names: NAME.yaml in the folder `base` beside the spec, or in ablations/base/."""
    folders = [folder for folder in (beside / "base", BASES) if folder.is_dir()]
    known = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    if name.value not in known:
        hint = did_you_mean(str(name.value), known)
        problems.add(name.where, f"no base {name.value!r}{hint}; ablations/base/ has {', '.join(known)}")
        return None
    path = next(p for folder in folders if (p := folder / f"{name.value}.yaml").is_file())
    document = read(path, problems)
    allowed = (*spec_fields.settable(RunSpec), "scales")
    root = _known(document, allowed, "a base holds settings and `scales` only", problems)
    scales = {key: layer(value, problems) for key, value in _scales(root.pop("scales", None), problems).items()}
    return BaseFile(f"{document.where}:1", layer(root, problems), scales)


def read_spec(path: Path, problems: Problems) -> SpecFile:
    """A question's file. A base may be run as it is, too."""
    document = read(path, problems)
    if path.parent.name == "base":
        return SpecFile(document, Node(path.stem, document.where), Layer(), {}, {})
    sections = spec_fields.settable(RunSpec)
    for key in [key for key in document.root.value if key.split(".")[0] in sections]:
        where = document.root.value.pop(key).where
        problems.add(where, f"{key} belongs under `set:` (a spec's own keys: {', '.join(KEYS)})")
    root = _known(document, KEYS, "", problems)
    scales, sweep_at = {}, {}
    for name, settings in _scales(root.get("scales"), problems).items():
        sweep_at[name] = {key: settings[key] for key in SWEEP if key in settings}
        scales[name] = layer({key: value for key, value in settings.items() if key not in SWEEP}, problems)
    base = root.get("base")
    return SpecFile(
        document=document,
        base=base,
        settings=layer(_mapping(root.get("set"), "set", problems), problems),
        scales=scales,
        sweep={key: root[key] for key in SWEEP if key in root},
        sweep_at=sweep_at,
        include=_include(root.get("include"), problems),
    )


def initial_state(base: BaseFile, spec: SpecFile, scale: str, problems: Problems) -> State:
    """Everything up to `set`: what all runs of one base start from."""
    state: State = {}
    merge.apply(state, base.settings, None, problems)
    merge.apply_sizes(state, scale, problems)
    for made in (base.scales.get(scale), spec.scales.get(scale), spec.settings):
        merge.apply(state, made or Layer(), scale, problems)
    return state


def refuse_scaled(
    swept: Layer, base: BaseFile, spec: SpecFile, scale: str, problems: Problems, under: str = "grid: {{{}: […]}}"
) -> None:
    """A scale may not touch a field that the spec sweeps, unless the values swept are the scale's own."""
    touched = base.scales.get(scale, Layer()).keys() | spec.scales.get(scale, Layer()).keys()
    for key, at in swept.keys().items():
        if key in touched and not any(at in _places(node) for node in spec.sweep_at.get(scale, {}).values()):
            problems.add(
                at,
                f"{key} is swept here, but the scale {scale} sets it ({touched[key]}): "
                f"give this scale values of its own, `scales: {{{scale}: {{{under.format(key)}}}}}`",
            )


def _places(node: Node) -> set[str]:
    children = (
        node.value.values() if isinstance(node.value, dict) else node.value if isinstance(node.value, list) else ()
    )
    return {node.where}.union(*(_places(child) for child in children))


def _known(document: Document, allowed: tuple[str, ...], rule: str, problems: Problems) -> dict[str, Node]:
    found = dict(document.root.value)
    for key in [key for key in found if key.split(".")[0] not in allowed]:
        hint = rule or f"a spec has {', '.join(KEYS)}"
        problems.add(found.pop(key).where, f"unknown key {key}{did_you_mean(key, allowed)}; {hint}")
    return found


def _mapping(node: Node | None, what: str, problems: Problems) -> Mapping[str, Node]:
    if node is None:
        return {}
    if isinstance(node.value, dict):
        return node.value
    problems.add(node.where, f"{what} is a mapping")
    return {}


def _scales(node: Node | None, problems: Problems) -> dict[str, Mapping[str, Node]]:
    found = {}
    for name, settings in _mapping(node, "scales", problems).items():
        if name in SCALES:
            found[name] = _mapping(settings, f"the scale {name}", problems)
        else:
            hint = did_you_mean(name, SCALES)
            problems.add(settings.where, f"no scale {name}{hint}; it may be {', '.join(SCALES)}")
    return found


def _include(node: Node | None, problems: Problems) -> list[Node]:
    if node is None:
        return []
    names = node.value if isinstance(node.value, list) else [node]
    if all(isinstance(name.value, str) for name in names):
        return names
    problems.add(node.where, "include names another spec, or a list of them")
    return []
