"""A spec file, overrides and a scale → runs, typed and checked, or every problem at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.common.errors import ConfigError
from bench.config import validate
from bench.config.build import MissingField, build
from bench.config.filters import Filter, conditions
from bench.config.graph import (
    PendingRun,
    identify,
    merge,
    unique_labels,
)
from bench.config.grid import SweepPoint, at_scale, points
from bench.config.merge import (
    SCALES,
    Layer,
    State,
    apply,
    apply_where_present,
    layer,
)
from bench.config.naming import folder_name, label_settings
from bench.config.read import (
    Node,
    Problems,
    did_you_mean,
    parse_override,
)
from bench.config.schema import RunSpec
from bench.config.spec_fields import slot_of
from bench.config.spec_files import (
    BaseFile,
    SpecFile,
    initial_state,
    read_base,
    read_spec,
    refuse_scaled,
)


@dataclass(frozen=True)
class Run:
    """One run of a sweep."""

    id: str  # the identity of its spec
    label: str  # only what differs
    settings: dict[str, Any]  # swept key → value, as written
    spec: RunSpec
    scale: str
    parents: tuple[str, ...]  # ids of the runs whose parts it starts from
    origin: dict[str, str]  # {"base", "spec"}: the names of the files that it came from


@dataclass(frozen=True)
class Sweep:
    """A question, resolved."""

    name: str
    scale: str
    question: str  # the header comment, without its commands
    path: Path
    overrides: tuple[str, ...]
    runs: list[Run]
    reference: str  # the label of the run that differences are taken from
    search: str | None = None  # where its `search` section stands (bench/config/search_section.py)

    @property
    def folder(self) -> str:
        """The name of the sweep's folder below results/."""
        return folder_name(self.name, self.scale, self.overrides)


def load(
    path: Path | str, overrides: Sequence[str] = (), scale: str = "tiny", proposal: SweepPoint | None = None
) -> Sweep:
    """Resolve a spec at a scale; with a search's `proposal`, that one run on the spec's base in place of its own.

    Raises ConfigError with every problem, each with its file and line.
    """
    path = Path(path)
    if scale not in SCALES:
        raise ConfigError(
            [f"--scale {scale}: no such scale{did_you_mean(scale, SCALES)}; it may be {', '.join(SCALES)}"]
        )
    loader = _Loader(scale, overrides, proposal)
    spec, drafts = loader.file(path, ())
    runs = loader.finish(drafts)
    reference = loader.reference(spec, runs)
    if loader.problems:
        raise ConfigError(loader.problems.in_order())
    question = " ".join(line for line in spec.document.header if line and not line.startswith("python -m"))
    if overrides:
        question += f" (Changed on the command line: {' '.join(overrides)})"
    search = spec.sweep.get("search") or next((at["search"] for at in spec.sweep_at.values() if "search" in at), None)
    place = search.where if search else None
    return Sweep(path.stem, scale, question, path, tuple(overrides), runs, reference, place)


class _Loader:
    """What the files of one sweep share: the scale, the command line, the problems found."""

    def __init__(self, scale: str, overrides: Sequence[str], proposal: SweepPoint | None = None) -> None:
        self.scale, self.problems, self.proposal = scale, Problems(), proposal
        self.command, self.of_sweep = Layer(), dict[str, Node]()
        for key, node in filter(None, (parse_override(text, self.problems) for text in overrides)):
            if key in ("seeds", "reference"):  # keys of the spec, not of its runs
                self.of_sweep[key] = node
            else:
                self.command += layer({key: node}, self.problems)
        self.absent: dict[str, str] = {}  # overrides of a field that a run's parts lack → the message
        self.present: set[str] = set()
        self.read: set[Path] = set()

    def file(self, path: Path, including: tuple[Path, ...]) -> tuple[SpecFile, list[PendingRun]]:
        """The runs of one file and of those that it includes."""
        spec = read_spec(path, self.problems)
        self.read.add(path)
        own = spec.base is not None or bool(spec.sweep) or not spec.include
        drafts = self._expand(path, spec) if own else []
        for name in [] if self.proposal else spec.include:
            other = path.parent / f"{name.value.removesuffix('.yaml')}.yaml"
            if other in (path, *including):
                self.problems.add(name.where, f"{name.value} includes itself")
            elif not other.is_file():
                hint = did_you_mean(name.value, [p.stem for p in path.parent.glob("*.yaml")])
                self.problems.add(name.where, f"no spec {name.value} beside this one{hint}")
            elif other not in self.read:  # two includes may share a third
                drafts += self.file(other, (path, *including))[1]
        return spec, drafts

    def finish(self, drafts: list[PendingRun]) -> list[Run]:
        """Identify, merge and name."""
        for where, message in self.absent.items():
            if where not in self.present:
                self.problems.add(where, message)
        if self.problems:
            return []
        identify(drafts, self.problems)
        drafts = merge(drafts, self.command.keys(), self.problems)
        unique_labels(drafts)
        return [
            Run(d.id, d.label, dict(d.settings), d.spec, self.scale, d.parents, {"base": d.base, "spec": d.origin})
            for d in drafts
        ]

    def reference(self, spec: SpecFile, runs: Sequence[Run]) -> str:
        """The label of the run that `reference` names by its label, with or without the seed; by default the first."""
        node = {**spec.sweep, **spec.sweep_at.get(self.scale, {}), **self.of_sweep}.get("reference")
        if self.problems or node is None:
            return runs[0].label if runs else ""
        labels: dict[str, str] = {}
        for run in runs:
            for name in (run.label.partition(", seed ")[0], run.label):
                labels.setdefault(name, run.label)
        if str(node.value) in labels:
            return labels[str(node.value)]
        hint = did_you_mean(str(node.value), tuple(labels))
        self.problems.add(node.where, f"reference: no run {node.plain()!r}{hint}; it may be {'; '.join(labels)}")
        return ""

    def _expand(self, path: Path, spec: SpecFile) -> list[PendingRun]:
        """One file's own runs."""
        for scale in spec.sweep_at.keys() - {self.scale}:
            points(at_scale(spec.sweep, spec.sweep_at[scale]), (), self.problems)  # only to find its problems
        sweep = at_scale(spec.sweep, spec.sweep_at.get(self.scale, {})) | {
            key: node for key, node in self.of_sweep.items() if key == "seeds"
        }
        before = len(self.problems)
        alternatives = conditions(sweep["where"], self.problems) if "where" in sweep else []
        keep = Filter(alternatives if len(self.problems) == before else [])
        starts: dict[Any, tuple[BaseFile, State] | None] = {}
        kept: list[tuple[SweepPoint, PendingRun]] = []
        found = [self.proposal] if self.proposal else points(sweep, list(self.command.keys()), self.problems)
        for point in found:
            base = point.base or spec.base
            if base is None:
                if spec.document.root.value or not self.problems:  # else the file could not be read at all
                    self.problems.add(
                        f"{spec.document.where}:1", "names no base: begin with, say, `base: freesplatter`"
                    )
                continue
            if base.value not in starts:
                starts[base.value] = self._start(base, spec)
            if start := starts[base.value]:
                if not self.proposal:
                    refuse_scaled(point.layer, start[0], spec, self.scale, self.problems)
                draft = self._draft(point, base, start[1], keep, spec)
                kept += [(point, draft)] if draft else []
        keep.report(self.problems)
        if not kept and not self.problems:
            self.problems.add(sweep["where"].where if "where" in sweep else spec.document.where, "keeps no run")
        _label(kept, path.stem)
        return [draft for _, draft in kept]

    def _start(self, name: Node, spec: SpecFile) -> tuple[BaseFile, State] | None:
        """A base, with all that the runs on it share; the other scales are resolved for their problems alone."""
        base = read_base(name, spec.folder, self.problems)
        states = {scale: initial_state(base, spec, scale, self.problems) for scale in SCALES} if base else {}
        return (base, states[self.scale]) if base else None

    def _draft(self, point: SweepPoint, base: Node, start: State, keep: Filter, spec: SpecFile) -> PendingRun | None:
        """One run, built and checked; None where `where` drops it or it cannot be built."""
        state, problems = dict(start), Problems()
        if self.proposal:
            apply_where_present(state, point.layer, self.scale, problems)
        else:
            apply(state, point.layer, self.scale, problems)
        absent = apply_where_present(state, self.command, self.scale, problems)
        if not keep(state):
            return None
        self.absent |= absent
        self.present |= set(self.command.keys().values()) - absent.keys()
        self.problems.extend(problem for problem in problems if problem not in self.problems)
        try:
            made = build(state)
        except MissingField as error:
            if not self.problems:
                self.problems.add(base.where, str(error))
            return None
        for problem in validate.problems(made):
            by_size = f" ({size})" if (size := state.get(problem.field, base).where).endswith(".sizes") else ""
            where = _origin(state, problem.field, base.where)
            self.problems.add(where, f"{problem.field}: {problem.message}{by_size}")
        where = next(iter(point.layer.keys().values()), base.where)
        return PendingRun(made, state, point.settings, point.name, str(base.value), spec.document.path.stem, where)


def _origin(state: State, key: str, otherwise: str) -> str:
    """Where the user gave a field, something in it, what it must agree with, or the part that it belongs to."""
    given = {other: setting.where for other, setting in state.items() if not setting.where.endswith(".sizes")}
    inside = (other for other in given if other.startswith(key + "."))
    candidates = (key, *inside, *validate.AGREES_WITH.get(key, ()), slot_of(key))
    return next((given[found] for found in candidates if found in given), otherwise)


def _label(kept: Sequence[tuple[SweepPoint, PendingRun]], spec: str) -> None:
    told: list[Mapping[str, Any]] = [point.shown_settings for point, _ in kept]
    names, bases = [point.name for point, _ in kept], [draft.base for _, draft in kept]
    for (_, draft), label in zip(kept, label_settings(told, names, bases, spec), strict=True):
        draft.label = label
