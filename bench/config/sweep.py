"""A spec file, overrides and a scale → runs, typed and checked, or every problem at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.common.errors import ConfigError
from bench.config import validate
from bench.config.build import MissingField, build
from bench.config.filters import Filter, conditions
from bench.config.graph import PendingRun, identify, merge, overlap, unique_labels
from bench.config.grid import SweepPoint, at_scale, points
from bench.config.merge import SCALES, Layer, State, apply, apply_regime, apply_where_present, layer
from bench.config.naming import folder_name, label_settings
from bench.config.read import Node, Problems, did_you_mean, parse_override
from bench.config.schema import RunSpec
from bench.config.spec_fields import slot_of
from bench.config.spec_files import (
    BaseFile,
    SpecFile,
    initial_state,
    read_base,
    read_spec,
    refuse_paper_width,
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


@dataclass(frozen=True, eq=False)
class Sweep:
    """A question, resolved."""

    name: str
    scale: str
    question: str  # the header comment, without its commands
    path: Path
    overrides: tuple[str, ...]
    runs: list[Run]
    reference: str  # the label of the run that differences are taken from
    notes: tuple[str, ...] = ()  # what may not be meant: "where: what happens and how to change it"
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
    spec, pending = loader.file(path, ())
    runs = loader.finish(pending)
    reference = loader.reference(spec, runs)
    if loader.problems:
        raise ConfigError(loader.problems.in_order())
    question = " ".join(line for line in spec.document.header if line and not line.startswith("python -m"))
    if overrides:
        question += f" (Changed on the command line: {' '.join(overrides)})"
    search = spec.sweep.get("search") or next((at["search"] for at in spec.sweep_at.values() if "search" in at), None)
    notes = [*loader.notes, *(_collapse(loader, path, len(runs)) if overrides and not proposal else [])]
    where = search.where if search else None
    return Sweep(path.stem, scale, question, path, tuple(overrides), runs, reference, tuple(notes), where)


def _collapse(loader: _Loader, path: Path, count: int) -> list[str]:
    """A note if the command line leaves fewer runs than the spec names."""
    fixed = [key for key in loader.command.places() if any(overlap(key, swept) for swept in loader.swept)]
    if not (fixed or loader.merged):
        return []
    try:
        before = len(load(path, (), loader.scale).runs)
    except ConfigError:  # a spec that needs the overrides
        return []
    if before <= count:
        return []
    reasons = [f"{one!r} equals {other!r}" for one, other in loader.merged]
    reasons = reasons or [f"the spec sweeps {', '.join(fixed)}, which the command line fixes"]
    return [f"command line: {before} → {count} runs: {'; '.join(dict.fromkeys(reasons))}"]


class _Loader:
    """What the files of one sweep share: the scale, the command line, the problems so far."""

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
        self.swept: set[str] = set()  # every key that the files sweep, fixed by the command line or not
        self.merged: list[tuple[str, str]] = []  # labels of runs that became one
        self.notes: list[str] = []

    def file(self, path: Path, including: tuple[Path, ...]) -> tuple[SpecFile, list[PendingRun]]:
        """The runs of one file and of those that it includes."""
        spec = read_spec(path, self.problems)
        self.read.add(path)
        own = spec.base is not None or bool(spec.sweep) or not spec.include
        pending = self._expand(path, spec) if own else []
        for name in [] if self.proposal else spec.include:
            other = path.parent / f"{name.value.removesuffix('.yaml')}.yaml"
            if other in (path, *including):
                self.problems.add(name.where, f"{name.value} includes itself")
            elif not other.is_file():
                hint = did_you_mean(name.value, [p.stem for p in path.parent.glob("*.yaml")])
                self.problems.add(name.where, f"no spec {name.value} beside this one{hint}")
            elif other not in self.read:  # two includes may share a third
                pending += self.file(other, (path, *including))[1]
        return spec, pending

    def finish(self, pending: list[PendingRun]) -> list[Run]:
        """Identify, merge and name."""
        for where, message in self.absent.items():
            if where not in self.present:
                self.problems.add(where, message)
        if self.problems:
            return []
        for run in pending:
            identify(run, pending, self.problems)
        distinct, self.merged = merge(pending, self.command.places(), self.problems)
        unique_labels(distinct)
        return [
            Run(p.id, p.label, dict(p.settings), p.spec, self.scale, p.parents, {"base": p.base, "spec": p.spec_name})
            for p in distinct
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
        text = str(node.text if node.text is not None else node.plain())
        if text not in labels:
            options = f"{did_you_mean(text, tuple(labels))}; it may be {'; '.join(labels)}"
            self.problems.add(node.where, f"reference: no run {text!r}{options}")
        return labels.get(text, "")

    def _expand(self, path: Path, spec: SpecFile) -> list[PendingRun]:
        """One file's own runs."""
        for scale in spec.sweep_at.keys() - {self.scale}:
            points(at_scale(spec.sweep, spec.sweep_at[scale]), (), self.problems)  # only to find its problems
        sweep = at_scale(spec.sweep, spec.sweep_at.get(self.scale, {}))
        sweep |= {key: node for key, node in self.of_sweep.items() if key == "seeds"}
        keep, before = None, len(self.problems)
        if "where" in sweep:
            alternatives = conditions(sweep["where"], self.problems)
            keep = Filter(alternatives if len(self.problems) == before else [])
        self.swept.update(key for point in points(sweep, (), Problems()) for key in point.settings)
        runs: list[tuple[SweepPoint, PendingRun]] = []
        bases: dict[str, tuple[BaseFile, State] | None] = {}
        for point in [self.proposal] if self.proposal else points(sweep, self.command.places(), self.problems):
            name = point.base or spec.base
            if name is None:
                if spec.document.root.value or not self.problems:  # else the file could not be read at all
                    where = f"{spec.document.where}:1"
                    self.problems.add(where, "names no base: begin with, say, `base: freesplatter`")
                continue
            if (key := repr(name.plain())) not in bases:
                base = read_base(name, spec, self.problems)
                # the other scales are resolved for their problems alone
                states = {scale: initial_state(base, spec, scale, self.problems) for scale in SCALES} if base else {}
                bases[key] = (base, states[self.scale]) if base else None
            if start := bases[key]:
                if not self.proposal:
                    refuse_scaled(point.layer, start[0], spec, self.scale, self.problems)
                run = self._resolve(point, name, start[1], keep, spec)
                runs += [(point, run)] if run else []
        if keep:
            keep.report(self.problems)
        if not runs and not self.problems:
            self.problems.add(sweep["where"].where if "where" in sweep else spec.document.where, "keeps no run")
        settings = [point.label_settings for point, _ in runs]
        names, base_names = [point.name for point, _ in runs], [run.base for _, run in runs]
        for (_, run), label in zip(runs, label_settings(settings, names, base_names, path.stem), strict=True):
            run.label = label
        if spec.merged_losses and runs:  # `set: {losses: {…}}` changes what it names; the rest is easily overlooked
            terms = {key.partition(".")[0] for key in spec.merged_losses.value}
            others = [term for term in runs[0][1].spec.losses if term not in terms]
            note = f"losses is merged with the base's: {', '.join(others)} stays; `NAME: null` drops a term"
            self.notes += [f"{spec.merged_losses.where}: {note}"] if others else []
        return [run for _, run in runs]

    def _resolve(
        self, point: SweepPoint, base: Node, start: State, keep: Filter | None, spec: SpecFile
    ) -> PendingRun | None:
        """One run, built and checked; None where `where` drops it or it cannot be built."""
        state, problems = dict(start), Problems()
        if self.proposal:
            apply_where_present(state, point.layer, self.scale, problems)
        else:
            apply(state, point.layer, self.scale, problems)
        overridden = self.command.places()
        absent = apply_where_present(state, self.command, self.scale, problems) if overridden else {}
        apply_regime(state)
        if keep and not keep(state):
            return None
        self.absent |= absent
        self.present |= set(overridden.values()) - absent.keys()
        self.problems.extend(problem for problem in problems if problem not in self.problems)
        try:
            run_spec = build(state)
        except MissingField as error:
            if not self.problems:
                self.problems.add(base.where, str(error))
            return None
        for problem in validate.problems(run_spec):
            by_size = f" ({size})" if (size := state.get(problem.field, base).where).endswith(".sizes") else ""
            where, causes = _origin(state, problem.field, spec.document.where, base.where)
            self.problems.add(where, f"{problem.field}: {problem.message}{by_size}{causes}")
        if self.scale != "paper" and not self.proposal:
            refuse_paper_width(state, spec, self.scale, self.problems)
        where = next(iter(point.layer.places().values()), base.where)
        return PendingRun(run_spec, state, point.settings, point.name, str(base.value), spec.document.path.stem, where)


def _origin(state: State, key: str, spec: str, otherwise: str) -> tuple[str, str]:
    """Where the user gave a field, something in it, what it must agree with, or the part that it belongs to; of several
    places the one nearest to the user (command line, spec, base), the others in parentheses."""
    places = {other: setting.where for other, setting in state.items() if not setting.where.endswith(".sizes")}
    inside = [other for other in places if other.startswith(key + ".")]
    candidates = [k for k in (key, *inside, *validate.AGREES_WITH.get(key, ()), slot_of(key)) if k in places]
    if not candidates:
        return otherwise, ""
    nearness = {k: (places[k].startswith("command line: "), places[k].startswith(f"{spec}:")) for k in candidates}
    nearest = max(candidates, key=lambda k: nearness[k])
    others = [k for k in (key, *validate.AGREES_WITH.get(key, ())) if places.get(k, places[nearest]) != places[nearest]]
    rest = "; ".join(f"{k} is set at {places[k]}" for k in others)
    return places[nearest], f" ({rest})" if rest else ""
